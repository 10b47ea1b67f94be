"""`python -m areal_gsm8k`: the same as the installed `gsm8k` command."""

from areal_gsm8k.cli import main

main()
