"""One run's directory: its layout, and the only code that reads or writes it.

    runs/<experiment>/<trial>/
        config.yaml          the resolved configuration
        metrics.jsonl        one object a step
        samples/             step_NNNNN.jsonl: the samples of that step; rejected.jsonl: those that no step consumed
        evaluations/         step_NNNNN.jsonl: every graded dev completion of that evaluation
        preflight.json       rates of the start model on training prompts (preflight.jsonl: the completions)
        summary.json         accuracy before and after, with model, data and command
        plots/ checkpoints/ logs/
        recovery/            the two newest recovery points (runs/recovery.py)
        areal/               AReaL's own tree
        status.json          phase and process id, for `gsm8k watch` and the launcher
        launches.jsonl       one object a start or resume: command, time, step it goes on from, planned steps
        environment.json     packages, machine and commit of the newest launch
        report.html          the page that `gsm8k report` made

runs/files.py has the ways of writing by which a crash costs nothing.
"""

import json
import os
import time
from pathlib import Path
from typing import NamedTuple

from areal_gsm8k.runs.files import append_lines, read_lines, write_atomically

FINISHED = "finished"  # the last phase of a run that ended well
IN_A_STEP = ("rollout", "training", "evaluating", "saving a recovery point")  # phases of the trainer's loop
REFUSED = "refused"  # the last phase of a run that the preflight did not let start
STOPPED = "stopped"  # of a run that the user stopped, after it saved
COLLAPSED = "collapsed"  # of a run that `collapse.stop` ended, after it saved
ENDED = (FINISHED, REFUSED, STOPPED, COLLAPSED)


class RunError(RuntimeError):
    """A run directory that cannot be used; the message says what to do."""


class Launcher(NamedTuple):
    """The process of a `./run train`: its number, and whether it lives."""

    pid: int
    alive: bool


class Run:
    """The directory of one run. Creating the object touches nothing; `create` does."""

    def __init__(self, root: Path | str):
        self.root = Path(root)
        self.config = self.root / "config.yaml"
        self.metrics = self.root / "metrics.jsonl"
        self.summary = self.root / "summary.json"
        self.status_file = self.root / "status.json"
        self.rejected = self.root / "samples" / "rejected.jsonl"
        self.plots = self.root / "plots"
        self.checkpoints = self.root / "checkpoints"
        self.logs = self.root / "logs"
        self.preflight = self.root / "preflight.json"
        self.recovery = self.root / "recovery"
        self.launches = self.root / "launches.jsonl"
        self.environment = self.root / "environment.json"
        self.report = self.root / "report.html"
        self.stop_request = self.root / ".stop"  # there when the trainer is to stop after the step at hand
        self.lock = self.root / ".lock"  # locked, and names the process, while a launcher holds the run
        self.restarts = self.logs / "restarts.jsonl"  # one object for each restart of a rollout server that died
        self.areal = self.root / "areal"
        self.records = self.areal / "records"  # per-process shards of sample records, joined by the trainer
        self._served_weights = self.areal / "served_weights"

    @classmethod
    def create(cls, root: Path | str) -> "Run":
        """Make a fresh run directory and claim it. Raises RunError when the folder exists and is not empty."""
        run = cls(root)
        if run.root.exists() and any(run.root.iterdir()):
            if run.lock.exists():
                run.claim()  # a live run is refused as such
            raise RunError(
                f"{run.root} already holds a run. To go on with it: ./run train --resume {run.root}. To start another, "
                "give it another name (trial_name=...), or leave trial_name out to have it named after the time."
            )
        run.make_folders()
        run.claim()
        return run

    def make_folders(self) -> None:
        for folder in (self.plots, self.checkpoints, self.logs, self.records, self.rejected.parent):
            folder.mkdir(parents=True, exist_ok=True)

    def claim(self) -> None:
        """Hold the run for this process until it ends, however it ends. Raises RunError when another one holds it."""
        import fcntl  # not on Windows, where nothing is trained through AReaL

        self._lock = self.lock.open("a+")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._lock.seek(0)
            raise RunError(f"{self.root} is running, as process {self._lock.read().strip() or '?'}.") from None
        self._lock.truncate(0)
        self._lock.write(str(os.getpid()))
        self._lock.flush()

    def launcher(self) -> "Launcher | None":
        """The process that holds the run, or held it last, looked up on this machine; None before the first."""
        import psutil

        if not self.lock.exists() or not (pid := self.lock.read_text().strip()):
            return None
        try:
            started = psutil.Process(int(pid)).create_time()
        except psutil.Error:
            return Launcher(int(pid), alive=False)
        return Launcher(int(pid), alive=started < self.lock.stat().st_mtime + 1)  # else another process has the number

    def samples(self, step: int) -> Path:
        return self.root / "samples" / f"step_{step:05d}.jsonl"

    def evaluation(self, step: int) -> Path:
        return self.root / "evaluations" / f"step_{step:05d}.jsonl"

    def read_metrics(self) -> list[dict]:
        return read_lines(self.metrics)[0]

    def read_config(self) -> dict:
        """The resolved configuration as nested plain values; {} before it is written. Raises RunError."""
        import yaml

        try:
            return yaml.safe_load(self.config.read_text(encoding="utf-8")) or {}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, yaml.YAMLError) as error:
            raise RunError(f"{self.config}: cannot be read ({error}); mend or remove it.") from None

    def read_summary(self) -> dict | None:
        return _read_json(self.summary)

    def add_launch(self, command: str, step: int, steps: int) -> None:
        """Note a start (`step` 0) or resume after `step` of `steps`; `spent` sums earlier launches' seconds."""
        now, spent = time.time(), 0.0
        if earlier := self.read_launches():
            ended = self.status().get("time", now)  # a killed launch says no more than its last status
            spent = earlier[-1]["spent"] + max(0.0, ended - earlier[-1]["time"])
        append_lines(self.launches, [{"command": command, "time": now, "step": step, "steps": steps, "spent": spent}])

    def read_launches(self) -> list[dict]:
        return read_lines(self.launches)[0]

    def in_a_step(self) -> bool:
        """Whether the trainer is somewhere in its loop, not on the way to it."""
        status = self.status()
        return status.get("phase") in IN_A_STEP and status.get("step", 0) > 0

    def read_preflight(self) -> dict | None:
        return _read_json(self.preflight)

    def read_environment(self) -> dict | None:
        return _read_json(self.environment)

    def set_served_weights(self, model: Path | str) -> None:
        """Name the model, a folder or a hub name, that a rollout server has to be started with from now on."""
        write_atomically(self._served_weights, str(model))

    def served_weights(self) -> str:
        return self._served_weights.read_text(encoding="utf-8")

    def set_status(self, phase: str, **details) -> None:
        """Say what the run is doing; `phase` is shown to the user and named when something hangs."""
        status = {"phase": phase, "pid": os.getpid(), "time": time.time()} | details
        write_atomically(self.status_file, json.dumps(status))

    def status(self) -> dict:
        """The last status written, {} before the first."""
        return _read_json(self.status_file) or {}


def nearby(folder: Path) -> list[Path]:
    """The runs that may have been meant by a folder without one: those in it, else those beside it; newest first."""
    for place in (folder, folder.parent):
        if found := [file.parent for pattern in ("*/config.yaml", "*/*/config.yaml") for file in place.glob(pattern)]:
            return sorted(found, key=lambda run: run.stat().st_mtime, reverse=True)
    return []


def _read_json(file: Path) -> dict | None:
    """None where there is no file."""
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
