"""completions.jsonl of one evaluation: it grows as completions come, and a later call goes on from it.

settings.json beside it has everything the completions depend on. A folder holds the completions of one such set of
settings only; another set in the same folder is an error that names the difference.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from areal_gsm8k.evaluation.settings import EvaluationError
from areal_gsm8k.runs.files import append_lines, read_lines, to_lines, write_atomically


class Completions:
    """The completions of one folder. rows: by (row id, sample index); a failed one is asked again."""

    def __init__(self, folder: Path, settings: dict):
        """Open a new folder, or an interrupted evaluation's. Raises EvaluationError when its settings are others."""
        self.file = folder / "completions.jsonl"
        noted = folder / "settings.json"
        settings = json.loads(json.dumps(settings))
        if noted.exists():
            _compare(folder, json.loads(noted.read_text(encoding="utf-8")), settings)
        elif self.file.exists():
            raise EvaluationError(
                f"{folder} holds completions.jsonl without settings.json; choose another output folder"
            )
        else:
            write_atomically(noted, json.dumps(settings, indent=2, ensure_ascii=False) + "\n")
        had = [line for line in read_lines(self.file)[0] if line["completion"] is not None]
        write_atomically(self.file, to_lines(had))  # without a line torn by a kill, and without rows to be asked again
        self.seconds = max((line["seconds"] for line in had), default=0.0)
        self.tokens = sum(line["completion_tokens"] for line in had)
        self.rows = {(line["row"], line["sample"]): line for line in had}

    def append(self, rows: list[dict], seconds: float) -> None:
        """Add completions that came `seconds` after the start of generating, earlier sessions included."""
        self.seconds = round(seconds, 6)
        rows = [row | {"seconds": self.seconds} for row in rows]
        append_lines(self.file, rows, sync=False)
        self.tokens += sum(row["completion_tokens"] for row in rows)
        self.rows |= {(row["row"], row["sample"]): row for row in rows}

    def sync(self) -> None:
        """Force the appended rows to the disk."""
        with self.file.open("ab") as out:
            os.fsync(out.fileno())


def _compare(folder: Path, before: dict, settings: dict) -> None:
    different = [
        f"{key} was {before.get(key)!r} and is {settings.get(key)!r}"
        for key in sorted(before.keys() | settings.keys())
        if before.get(key) != settings.get(key)
    ]
    if different:
        raise EvaluationError(
            f"{folder} holds an evaluation with other settings: {'; '.join(different)}. "
            "Choose another output folder, or delete this one"
        )
