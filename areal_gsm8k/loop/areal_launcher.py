"""AReaL's local launcher as a child that takes its servers and trainers along when the run's own launcher is gone.

python -m areal_gsm8k.loop.areal_launcher train_grpo.py --config runs/x/y/config.yaml
"""

import runpy

from areal_gsm8k.children import die_with_parent

if __name__ == "__main__":
    die_with_parent(take_children=True)
    runpy.run_module("areal.infra.launcher.local", run_name="__main__", alter_sys=True)
