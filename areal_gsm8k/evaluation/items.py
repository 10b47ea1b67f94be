"""The rows of an evaluation: file, split and number, with checksums for the card.

items.load("openai/gsm8k", "test", subset="first500")
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

from areal_gsm8k.data.problems import DEFAULT_ROWS, GENERATED, DataError, checksum, load_problems


@dataclass(frozen=True)
class Items:
    """rows: dicts with id, question and answer, in file order."""

    rows: list[dict]
    source: str
    split: str
    subset: str | None
    checksum: str  # of the rows, data.checksum
    split_checksum: str  # of the whole split; the log of the test split counts openings by it


def load(
    source: str | os.PathLike, split: str = "dev", n: int | None = None, subset: str | None = None, seed: int = 0
) -> Items:
    """The first `n` rows of a split, all of them by default: the rows training evaluates on.

    subset: "firstN" is `n` under the name published tables use, and an error when there are fewer rows. seed is that
    of generated problems and touches nothing else. Raises DataError.
    """
    found = re.fullmatch(r"first([1-9]\d*)", subset) if subset else None
    if subset and not found:
        raise DataError(f"subset is {subset!r}; it must be first500, or first and another number")
    if found and n is not None:
        raise DataError(f"subset {subset} already says how many rows; leave n={n} out")
    if n is not None and n < 1:
        raise DataError(f"n is {n}; it must be at least 1")
    wanted = int(found[1]) if found else n
    more = wanted if str(source) == GENERATED and wanted and wanted > DEFAULT_ROWS.get(split, 0) else None
    whole = load_problems(source, split, rows=more, seed=seed).to_list()
    if found and len(whole) < wanted:
        raise DataError(f"{source}: subset {subset} needs {wanted} rows; the {split} split has {len(whole)}")
    rows = whole[:wanted]
    return Items(rows, str(source), split, subset, checksum(rows), checksum(whole))
