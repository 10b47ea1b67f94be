"""The rows that /q asks: read at the first /q; the seal logs it when they are test rows."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable
from pathlib import Path

from areal_gsm8k.evaluation import items, test_seal
from areal_gsm8k.evaluation.items import Items


def reader(source: str, split: str, seed: int, models: str, note: Callable[[str], None]) -> Callable[[], Items]:
    """A function that reads the rows of `gsm8k eval`, in its order. seed: of generated problems. Raises DataError."""

    def read() -> Items:
        found = items.load(source, split, seed=seed)
        if split == "test":
            log = Path("runs").absolute() / test_seal.NAME
            times = test_seal.record(log, found, models, shlex.join(["gsm8k", *sys.argv[1:]]))
            note(f"This test split has been opened {times} times ({log}).")
        return found

    return read
