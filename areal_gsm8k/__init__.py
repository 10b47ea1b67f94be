"""Grade-school maths reinforcement learning through AReaL: the library behind the programs at the top level."""
