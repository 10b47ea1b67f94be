"""Files that a crash cannot spoil: a file is replaced in one step, and a torn last line of JSON lines is not read.

write_atomically(run.config, text)
append_lines(run.metrics, [row])
rows, offset = read_lines(run.metrics)
"""

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file to write that takes the place of `path` when the block ends well: temporary name, fsync, rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as out:
            yield out
            out.flush()
            os.fsync(out.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_atomically(path: Path, text: str) -> None:
    """Replace `path` by `text`, or leave it as it was."""
    with replacing(path) as out:
        out.write(text.encode())


def append_lines(path: Path, rows: Iterable[dict], sync: bool = True) -> None:
    """Append JSON lines in one write; `sync` also forces them to the disk."""
    text = to_lines(rows)
    if not text:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as out:
        out.write(text)
        if sync:
            out.flush()
            os.fsync(out.fileno())


def read_lines(path: Path, offset: int = 0) -> tuple[list[dict], int]:
    """Every complete JSON line from a byte offset on, and the offset to continue from.

    A line still being written (no line end yet) is left for the next call; a missing file is empty.
    """
    if not path.exists():
        return [], offset
    with path.open("rb") as file:
        file.seek(offset)
        complete, line_end, _ = file.read().rpartition(b"\n")
    return [json.loads(line) for line in complete.splitlines()], offset + len(complete) + len(line_end)


def to_lines(rows: Iterable[dict]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
