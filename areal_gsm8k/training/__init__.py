"""The trainer processes: configuration, workflow, trainer and AReaL's launcher. The only room that imports AReaL."""
