"""Installed as `areal.launcher.local`, where AReaL's launcher was before 1.0.

python -m areal.launcher.local train_grpo.py --config train_grpo.yaml actor.path=...
"""

import sys

from areal_gsm8k.cli import start_script

if __name__ == "__main__":
    start_script(sys.argv[1:] or ["(no script)"])
