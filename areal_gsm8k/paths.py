"""The places of the project's own files: its programs, the base configuration and the overlays beside it.

In a checkout, and in an environment with an editable install of it, they lie in the checkout's top folder. A wheel
carries the same files in areal_gsm8k/project (pyproject.toml puts them there).
"""

from pathlib import Path

PACKAGE = Path(__file__).resolve().parent
PROJECT = next(folder for folder in (PACKAGE.parent, PACKAGE / "project") if (folder / "train_grpo.yaml").exists())
BASE = PROJECT / "train_grpo.yaml"
CONFIGS = PROJECT / "configs"
SCRIPT = PROJECT / "train_grpo.py"  # every trainer process runs this program
IMPORTABLE = str(PACKAGE.parent)  # on PYTHONPATH of a child: this package, whichever folder the child runs in
CPU_OVERLAY = CONFIGS / "cpu.yaml"  # it belongs to no kind of recipe: it sets a little of everything
