"""Predicts the memory (plan/memory) and the time (plan/speed) of a run before it is started."""
