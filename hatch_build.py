"""Puts the project's own files into the wheel: hatchling runs this as it builds (pyproject.toml).

    pip wheel --no-deps .

The base configuration, the overlays and the programs lie at the top of a checkout; in a wheel they go to
areal_gsm8k/project, where areal_gsm8k/paths.py finds them. A hook, because hatchling's own `force-include` would also
copy them into an environment with an editable install, which is to read those of the checkout, and stop where an
image's first layer holds none of them yet.
"""

from pathlib import Path

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

PROJECT_FILES = ("configs", "train_grpo.py", "train_grpo.yaml", "train_hf_trainer.py", "train_local_simple.py")


class ProjectFiles(BuildHookInterface):
    def initialize(self, version: str, build_data: dict) -> None:
        if version == "standard":  # not "editable"
            for name in PROJECT_FILES:
                build_data["force_include"][str(Path(self.root, name))] = f"areal_gsm8k/project/{name}"
