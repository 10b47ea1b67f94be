"""Recipes: the overlays under configs/, one file a choice, one folder a kind, found by name and freely combined.

A recipe is data: a few comment lines that say what it is, where its numbers come from, what others reached with it and
what it needs, then at most 20 lines of YAML laid over train_grpo.yaml.

    gsm8k recipes                                      # all of them
    gsm8k recipes show llama-3.2-1b dr_grpo 24gb       # what these three change, and the command
"""

import difflib
import re
from dataclasses import dataclass
from pathlib import Path

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
KINDS = ("models", "algorithms", "rewards", "backends", "scales")


class RecipeError(ValueError):
    """No recipe of that name; the message names the nearest ones."""


@dataclass(frozen=True)
class Recipe:
    """One overlay: its kind (a folder of configs/), its name (the file's) and the lines of its head."""

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
    return Recipe(path.parent.name, path.stem, path, tuple(head))


def all_recipes() -> list[Recipe]:
    """Every recipe, by kind, then by name and the numbers in it."""
    return [read(path) for kind in KINDS for path in sorted((CONFIGS / kind).glob("*.yaml"), key=_natural)]


def _natural(path: Path) -> tuple[str, list[float]]:
    numbers = r"\d+(?:\.\d+)?"
    return re.sub(numbers, "", path.stem), [float(number) for number in re.findall(numbers, path.stem)]


def find(name: str) -> Path:
    """The overlay called `llama-3.2-1b` or `models/llama-3.2-1b`. Raises RecipeError."""
    recipes = all_recipes()
    for recipe in recipes:
        if name.removesuffix(".yaml") in (recipe.name, f"{recipe.kind}/{recipe.name}"):
            return recipe.path
    near = difflib.get_close_matches(name, [recipe.name for recipe in recipes], n=3, cutoff=0.4)
    hint = f"Did you mean {' or '.join(near)}? " if near else ""
    raise RecipeError(f"no recipe {name!r}. {hint}`gsm8k recipes` lists them.")


def command(paths: list[Path]) -> str:
    """What to type to train with these overlays."""
    return " ".join(["./run train", *(f"--config {path.relative_to(CONFIGS.parent).as_posix()}" for path in paths)])


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
