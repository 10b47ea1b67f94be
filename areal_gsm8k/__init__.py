"""Grade-school maths reinforcement learning through AReaL: the library behind the programs at the top level."""

__version__ = "0.1.0"  # the only place: pyproject.toml and `gsm8k --version` read it here
