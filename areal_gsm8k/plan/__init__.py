"""What a run will need before it is started: memory (plan/memory) and time (plan/speed)."""
