"""Recipes: the overlays under configs/, one file a choice, one folder a kind, found by name and freely combined.

A recipe is data: a few comment lines (its purpose, the sources of its numbers, published results and its needs), then
at most 20 lines of YAML laid over train_grpo.yaml.

    gsm8k recipes                                      # all of them
    gsm8k recipes show llama-3.2-1b dr_grpo 24gb       # what these three change, and the command
"""

import difflib
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import yaml

from areal_gsm8k.dotted_keys import leaves
from areal_gsm8k.paths import BASE, CONFIGS, CPU_OVERLAY, PROJECT

KINDS = ("models", "algorithms", "rewards", "backends", "scales")


class RecipeError(ValueError):
    """No recipe of that name; the message names the nearest ones."""


@dataclass(frozen=True)
class Recipe:
    """One overlay: its kind (a folder of configs/), its name (the file's, or kind/file) and the lines of its head."""

    kind: str
    name: str
    path: Path
    head: tuple[str, ...]

    @property
    def title(self) -> str:
        """The first sentence of the head."""
        return self.head[0]


def read(path: Path) -> Recipe:
    """The recipe in this file: its leading comment lines are the head."""
    head = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        head.append(line.removeprefix("#").removeprefix(" "))
    kind = path.parent.name
    name = f"{kind}/{path.stem}" if path.stem == CPU_OVERLAY.stem else path.stem  # `cpu` alone is configs/cpu.yaml
    return Recipe(kind, name, path, tuple(head))


def all_recipes() -> list[Recipe]:
    """Every recipe, by kind, then by name and the numbers in it."""
    return [read(path) for kind in KINDS for path in sorted((CONFIGS / kind).glob("*.yaml"), key=_natural)]


def _natural(path: Path) -> tuple[str, list[float]]:
    numbers = r"\d+(?:\.\d+)?"
    return re.sub(numbers, "", path.stem), [float(number) for number in re.findall(numbers, path.stem)]


def find(name: str) -> Path:
    """The overlay called `llama-3.2-1b`, `models/llama-3.2-1b` or by its file. Raises RecipeError.

    `cpu` alone is the tiny recipe, `scales/cpu` a real model's scale.
    """
    wanted = name.lower().removeprefix("./").removeprefix("configs/").removesuffix(".yaml")
    for path in [CPU_OVERLAY, *(recipe.path for recipe in all_recipes())]:
        if wanted in (path.stem, f"{path.parent.name}/{path.stem}"):
            return path
    near = nearest(name)
    hint = f"Did you mean {' or '.join(path.stem for path in near)}? " if near else ""
    raise RecipeError(f"no recipe {name!r}. {hint}`gsm8k recipes` lists them.")


def locate(file: Path) -> Path | None:
    """The file that `--config` means: this path, where it exists; else the project's own file of this name; else None.

    `cpu`, `configs/cpu.yaml`, `models/llama-3.2-1b` and `train_grpo.yaml` are found from any working directory.
    """
    if file.exists() and not file.is_dir():  # also a pipe, as of <(...)
        return file
    if file.as_posix() == BASE.name:
        return BASE
    try:
        return find(file.as_posix())
    except RecipeError:
        return None


def nearest(name: str) -> list[Path]:
    """Up to three overlays whose names are most like this name or file name."""
    paths = {path.stem: path for path in [CPU_OVERLAY, *(recipe.path for recipe in all_recipes())]}
    wanted = PurePosixPath(name.lower().removesuffix(".yaml")).name.removesuffix("-instruct")
    return [paths[stem] for stem in difflib.get_close_matches(wanted, paths, n=3, cutoff=0.6)]


def command(paths: list[Path]) -> str:
    """The command that trains with these overlays."""
    return " ".join(["./run train", *(f"--config {path.relative_to(PROJECT).as_posix()}" for path in paths)])


def set_twice(paths: list[Path]) -> dict[tuple[str, ...], list[str]]:
    """{names of overlays, in order: the dotted keys that they set to different values}; the last overlay wins.

    allocation_mode is left out, because it is put together from all of them.
    """
    setters: dict[str, dict[str, object]] = {}
    for path in paths:
        for key, value in settings(path).items():
            setters.setdefault(key, {})[path.stem] = value
    shared: dict[tuple[str, ...], list[str]] = {}
    for key, values in setters.items():
        if len(set(map(str, values.values()))) > 1 and key != "allocation_mode":
            shared.setdefault(tuple(values), []).append(key)
    return shared


def settings(path: Path) -> dict[str, object]:
    """{dotted key: value} of one overlay, as it is written."""
    return leaves(yaml.safe_load(path.read_text(encoding="utf-8")))


def differences(base: dict, values: dict, prefix: str = "") -> dict[str, tuple[object, object]]:
    """{dotted key: (value in base, value here)} wherever two resolved configurations differ.

    A section that the base lacks (or has as null) is one entry, not one for each of its keys.
    """
    changed = {}
    for key in sorted(base.keys() | values.keys()):
        before, after = base.get(key), values.get(key)
        if isinstance(before, dict) and isinstance(after, dict):
            changed |= differences(before, after, f"{prefix}{key}.")
        elif before != after:
            changed[f"{prefix}{key}"] = before, after
    return changed
