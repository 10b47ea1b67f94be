"""Which questions a model gained and lost between two evaluations of the same items, with both completions.

first, last = graded.read("runs/tiny-grpo/20261121_101500")     # report/graded.py
flips(first, last).gained[0].after
"""

from __future__ import annotations

from dataclasses import dataclass

from areal_gsm8k.report.graded import Graded
from areal_gsm8k.statistics import mcnemar


@dataclass(frozen=True)
class Flip:
    """One completion of an item that changed sides: the rows of both evaluations."""

    before: dict
    after: dict


@dataclass(frozen=True)
class Flips:
    """Lenient verdicts; a completion without one counts as not right. p_value: McNemar's, exact, for one each item."""

    first: str
    last: str
    both_right: int
    both_wrong: int
    gained: list[Flip]
    lost: list[Flip]
    p_value: float | None


def flips(first: Graded, last: Graded) -> Flips:
    """Pair the two by item and sample. Raises ValueError when they are of different ones."""
    before, after = ({(row["row"], row["sample"]): row for row in one.rows} for one in (first, last))
    if before.keys() != after.keys():
        raise ValueError(f"{first.name!r} and {last.name!r} are of different items; evaluate both alike")
    pairs = [Flip(row, after[key]) for key, row in before.items()]
    right = [(bool(pair.before.get("lenient")), bool(pair.after.get("lenient"))) for pair in pairs]
    once = len({row for row, _ in before}) == len(before)
    return Flips(
        first=first.name,
        last=last.name,
        both_right=right.count((True, True)),
        both_wrong=right.count((False, False)),
        gained=[pair for pair, sides in zip(pairs, right, strict=True) if sides == (False, True)],
        lost=[pair for pair, sides in zip(pairs, right, strict=True) if sides == (True, False)],
        p_value=mcnemar(*zip(*right, strict=True)).p_value if once and right else None,
    )
