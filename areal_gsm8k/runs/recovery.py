"""Recovery points on disk, and how a run's files are set back to one: `./run train --resume RUN` starts from them.

    <run>/recovery/step_NNNNN/     model and optimiser as AReaL's engine saves them, and state.json

Each point is written under a temporary name, synced and renamed; the two newest stay. state.json lists every file with
its size, so that a half-written point is noticed and the one before it is used. training/recovery_points.py fills them
for GRPO; sft/loop.py writes points of the same form, with one training.pt in each.
"""

import json
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from areal_gsm8k.runs import checkpoints
from areal_gsm8k.runs.files import read_lines, to_lines, write_atomically
from areal_gsm8k.runs.run import Run

KEPT = 2
STATE = "state.json"


class Ledger:
    """Which positions of the run's data order are done: consumed by a step, or rejected.

    Rollouts run ahead and finish out of order, so a ledger is the first open position and the few done ones beyond it.
    """

    def __init__(self, first_open: int = 0, beyond: Iterable[int] = ()):
        self.first_open, self._beyond = first_open, set(beyond)

    def add(self, positions: Iterable[int]) -> None:
        self._beyond.update(p for p in positions if p >= self.first_open)
        while self.first_open in self._beyond:
            self._beyond.remove(self.first_open)
            self.first_open += 1

    def __contains__(self, position: int) -> bool:
        return position < self.first_open or position in self._beyond

    def state(self) -> dict:
        return {"first_open": self.first_open, "beyond": sorted(self._beyond)}


@dataclass(frozen=True)
class RecoveryPoint:
    """A complete recovery point: after `step` steps, with the state that was saved beside the tensors."""

    step: int
    folder: Path
    state: dict


def finish(unfinished: Path, folder: Path, state: dict) -> None:
    """Complete a written point: add state.json, sync, put it in its place, remove all but the newest two."""
    files = {file.name: file.stat().st_size for file in sorted(unfinished.iterdir())}
    (unfinished / STATE).write_text(json.dumps(state | {"files": files}, indent=1), encoding="utf-8")
    checkpoints.finish(unfinished, folder)
    for old in sorted(folder.parent.glob("step_*"), key=step_of)[:-KEPT]:
        shutil.rmtree(old)


def newest(run: Run) -> tuple[RecoveryPoint | None, list[str]]:
    """The newest complete recovery point, and a note on every half-written one that is passed over."""
    notes = [f"{half}: unfinished, ignored." for half in sorted(run.recovery.glob(".step_*.partial"))]
    for folder in sorted(run.recovery.glob("step_*"), key=step_of, reverse=True):
        try:
            state = json.loads((folder / STATE).read_text(encoding="utf-8"))
            missing = [name for name, size in state["files"].items() if (folder / name).stat().st_size != size]
        except (OSError, ValueError, KeyError) as problem:
            notes.append(f"{folder}: not readable ({problem}), ignored.")
            continue
        if not missing:
            return RecoveryPoint(state["step"], folder, state), notes
        notes.append(f"{folder}: half-written ({', '.join(missing)}), ignored.")
    return None, notes


def rewind(run: Run, step: int) -> int:
    """Take the rows of steps after `step` out of the run's files; those steps are done again. Returns their number.

    `step` -1 takes out everything, the first evaluation too. Sample records that no step has consumed go as well, for
    their prompts come again; so do the names and the weights on their way that AReaL left there. A second call changes
    nothing.
    """
    rows = run.read_metrics()
    rejected, _ = read_lines(run.rejected)
    write_atomically(run.metrics, to_lines(row for row in rows if row["step"] <= step))
    write_atomically(run.rejected, to_lines(row for row in rejected if row["step"] <= step))
    for folder in (run.samples(0).parent, run.evaluation(0).parent):
        for file in folder.glob("step_*.jsonl"):
            if step_of(file) > step:
                file.unlink()
    for left_over in (run.records, run.areal / "name_resolve", run.areal / "checkpoints"):
        shutil.rmtree(left_over, ignore_errors=True)
    run.stop_request.unlink(missing_ok=True)
    if step < 0:
        run.preflight.unlink(missing_ok=True)
    run.make_folders()
    return len({row["step"] for row in rows if row["step"] > max(step, 0)})


def step_of(path: Path) -> int:
    """The step that a path such as recovery/step_00012 or samples/step_00012.jsonl is named after."""
    return int(path.stem.removeprefix("step_"))
