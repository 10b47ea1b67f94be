"""The seal of the test split: a log of every time the split was opened, and by which command.

A test set that is looked at again and again becomes a second dev set. No opening is refused; each is counted, and every
report of a test evaluation says how often these rows were opened. The log is `test_openings.jsonl` beside the runs.
"""

from __future__ import annotations

import time
from pathlib import Path

from areal_gsm8k.evaluation.items import Items
from areal_gsm8k.runs.files import append_lines, read_lines

NAME = "test_openings.jsonl"


def record(log: Path, items: Items, model: str, command: str) -> int:
    """Append one opening, and return how often the test split that the items are of has been opened by now."""
    opening = {
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "model": model,
        "command": command,
        "data": items.source,
        "rows": len(items.rows),
        "split_checksum": items.split_checksum,
    }
    append_lines(log, [opening])
    return sum(line["split_checksum"] == items.split_checksum for line in read_lines(log)[0])
