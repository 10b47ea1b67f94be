"""Sample records: each completion with its verdict and reward, beside the tensors AReaL trains on.

A workflow runs in several processes and cannot know which step will consume its sample. So each process appends its
records to a shard of its own, and the sample carries an integer id through AReaL; after advantages are computed the
trainer collects the shards and joins them by id (training/step_recorder.py).
"""

import os
import secrets
import threading
from pathlib import Path

from areal_gsm8k.runs.files import append_lines, read_lines, write_atomically

LARGEST_SEED = 2**63 - 1
GIVEN_UP = "given_up.txt"
# The rates that are reported everywhere, and the field of a record that each counts.
RATES = {"accuracy": "lenient", "accuracy_strict": "strict", "format_rate": "formatted", "truncated": "truncated"}


def sampling_seed(run_seed: int, sample_id: int) -> int:
    """The seed of a sample's draw: a function of the run's seed and the sample's id alone."""
    return (run_seed << 32) + sample_id & LARGEST_SEED


class RecordWriter:
    """Appends sample records to this process's shard. Safe in threads."""

    def __init__(self, folder: Path | str):
        self._shard = Path(folder) / f"{os.getpid()}_{secrets.token_hex(4)}.jsonl"
        # Ids of samples outside the data order (evaluations): 31 random bits for the process, 32 for its samples. The
        # ids are unique over processes, fit int64, and lie beyond those of training samples, which count from 0.
        self._next_id = (1 + secrets.randbelow(2**31 - 1)) << 32
        self._lock = threading.Lock()

    def new_id(self) -> int:
        with self._lock:
            self._next_id += 1
            return self._next_id

    def write(self, record: dict) -> None:
        """Append one record; it must hold `id`."""
        with self._lock:
            append_lines(self._shard, [record], sync=False)

    def reject(self, ids: list[int], reason: str) -> None:
        """Note that the samples of these ids will be consumed by no step, and why."""
        with self._lock:
            append_lines(self._shard, [{"rejects": ids, "reason": reason}], sync=False)

    def give_up(self, reason: str) -> None:
        """Ask the run's launcher to end it, for a reason that no later sample can mend; the first one counts."""
        give_up(self._shard.parent, reason)


def give_up(folder: Path | str, reason: str) -> None:
    """Write why the run cannot go on into the folder of its sample records, where the launcher looks."""
    file = Path(folder) / GIVEN_UP
    if not file.exists():
        write_atomically(file, reason)


def given_up(folder: Path | str) -> str | None:
    """Why a process of the run gave up; None while none has."""
    try:
        return (Path(folder) / GIVEN_UP).read_text(encoding="utf-8")
    except FileNotFoundError:
        return None


class RecordReader:
    """Collects the records of all shards, each line once. Safe in threads."""

    def __init__(self, folder: Path | str):
        self._folder = Path(folder)
        self._lock = threading.RLock()
        self._offsets: dict[Path, int] = {}
        self._waiting: dict[int, dict] = {}
        self._rejects: dict[int, str] = {}

    def _collect(self) -> None:
        for shard in sorted(self._folder.glob("*.jsonl")):
            rows, self._offsets[shard] = read_lines(shard, self._offsets.get(shard, 0))
            for row in rows:
                if "rejects" in row:
                    self._rejects |= dict.fromkeys(row["rejects"], row["reason"])
                else:
                    self._waiting[row["id"]] = row

    def take(self, ids: list[int]) -> list[dict]:
        """The records of these ids, in order. Raises KeyError when one was never written."""
        with self._lock:
            if any(i not in self._waiting for i in ids):
                self._collect()
            return [self._waiting.pop(i) for i in ids]

    def count(self, evaluation: bool, rejected: bool = False) -> int:
        """Records that wait to be taken: of an evaluation, or of training; rejected or failed samples if asked for."""
        with self._lock:
            self._collect()
            rows = [row for row in self._waiting.values() if bool(row.get("evaluation")) == evaluation]
            return sum(evaluation or rejected or not (row["id"] in self._rejects or row.get("error")) for row in rows)

    def take_rejected(self) -> list[dict]:
        """Records that no step will consume: their own error, or the reason their group was rejected."""
        with self._lock:
            self._collect()
            training = {i: row for i, row in self._waiting.items() if not row.get("evaluation")}
            done = [i for i, row in training.items() if i in self._rejects or row.get("error")]
            rejected = [self._waiting.pop(i) for i in done]
            return [row | {"rejected": row.get("error") or self._rejects.pop(row["id"])} for row in rejected]

    def take_evaluated(self) -> list[dict]:
        """Records of evaluation completions written since the last call."""
        with self._lock:
            self._collect()
            done = [i for i, row in self._waiting.items() if row.get("evaluation")]
            return [self._waiting.pop(i) for i in done]
