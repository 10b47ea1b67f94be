"""The cards of evaluations that `gsm8k eval` made of a run's checkpoints.

`gsm8k eval` writes to <runs>/evaluations/MODEL-HASH/ unless told otherwise, and `gsm8k sidebyside` to
<out>/evaluations/NAME/MODEL/, so an `evaluations` folder is looked for in the run and in the three folders above it.
"""

from __future__ import annotations

from pathlib import Path

from areal_gsm8k.evaluation.card import Card
from areal_gsm8k.statistics import in_per_cent

LEVELS = 3
PATTERNS = ("*/evaluation.json", "*/*/evaluation.json")


def of_run(root: Path) -> list[Card]:
    """The cards, oldest first. A file that is no card of this version is left out."""
    root = root.resolve()
    places = [folder / "evaluations" for folder in (root, *root.parents[:LEVELS])]
    files = {file for place in places for pattern in PATTERNS for file in place.glob(pattern)}
    found = []
    for file in files:
        try:
            card = Card.read(file)
        except (OSError, ValueError, TypeError):
            continue
        if root in file.parents or _is_of(card, file, root):
            found.append(card)
    return sorted(found, key=lambda card: card.time)


def _is_of(card: Card, file: Path, root: Path) -> bool:
    """Whether a card's model lies in the run: a path as typed, from here or from a folder above the evaluation."""
    return any((base / card.model).resolve().is_relative_to(root) for base in (Path.cwd(), *file.parents))


def rates(card: Card) -> list[tuple[str, str]]:
    """The rates of a card, as label and text with its interval."""
    shown = {"accuracy": card.accuracy, "strict": card.accuracy_strict, "format": card.format_rate}
    shown |= {f"pass@{k}": rate for k, rate in (card.pass_at_k or {}).items() if int(k) > 1}
    shown |= {"truncated": card.truncated}
    fields = {"strict": "accuracy_strict", "format": "format_rate"}
    return [
        (label, f"{rate:.1%}{_interval(card, fields.get(label, label.replace('@', '_at_')))}")
        for label, rate in shown.items()
        if rate is not None
    ]


def _interval(card: Card, name: str) -> str:
    bounds = card.intervals.get(name)
    return f" {in_per_cent(*bounds)}" if bounds else ""


def how(card: Card) -> list[tuple[str, str]]:
    """How the card was measured, as label and text."""
    decoding = "greedy" if card.temperature == 0 else f"temperature {card.temperature:g}, {card.k} completions each"
    lines = {
        "rows": f"{card.n:,} {card.split} rows of {card.data}{f' ({card.subset})' if card.subset else ''}",
        "decoding": f"{decoding}, at most {card.max_new_tokens} tokens, seed {card.seed}",
        "answer format": card.answer_format,
        "mean tokens": None if card.completion_tokens is None else f"{card.completion_tokens:.1f}",
        "errors": str(card.errors) if card.errors else None,
        "engine": f"{card.engine}, {', '.join(f'{name} {version}' for name, version in card.software.items())}",
        "grader": card.grader_version,
        "test split opened": None if card.test_openings is None else f"{card.test_openings} times until then",
        "finished": card.time,
        "command": card.command,
    }
    return [(label, value) for label, value in lines.items() if value]
