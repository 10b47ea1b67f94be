"""The loop: configuration, workflow, trainer and launch. The only floor that imports AReaL."""
