"""The two sides as programs: one run of TRL's trainer, one of ours, each watched and kept as one JSON file.

outcome = TRL(threads=2).run(task, seed=1, folder=Path("runs/vs-trl/trl-1"))
outcome = Ours("ahead", ("rollout.max_head_offpolicyness=1",)).run(task, seed=1, folder=...)
"""

import json
import os
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from areal_gsm8k.paths import PROJECT
from areal_gsm8k.plan.speed.recorded import OUTSIDE
from areal_gsm8k.runs.files import read_lines, write_atomically
from areal_gsm8k.runs.run import Run
from benchmarks.trl import environment
from benchmarks.trl.measured import Measured, measure, stretches
from benchmarks.trl.task import Task


@dataclass(frozen=True)
class Outcome:
    """One run. Times are seconds, memory bytes. steps: rows of step, wall (since training began, evaluations and saving
    left out), tokens (generated) and reward. accuracy: greedy on the dev rows, by step."""

    side: str
    seed: int
    settings: dict
    software: dict
    steps: list[dict]
    weights: dict[int, str]
    cpu_a_step: float | None
    whole_wall: float  # of the whole program, with imports, loading and saving
    whole_cpu: float
    peak_memory: int
    others: float  # share of the machine that other programs took
    accuracy: dict[int, float] = field(default_factory=dict)

    @property
    def wall_a_step(self) -> float:
        return self.steps[-1]["wall"] / len(self.steps)

    def wall_at(self, step: int) -> float:
        return next(row["wall"] for row in self.steps if row["step"] == step) if step else 0.0

    def seconds_to(self, accuracy: float) -> float | None:
        """Wall seconds to the first evaluated step that is so good."""
        good = [step for step, found in sorted(self.accuracy.items()) if found >= accuracy]
        return self.wall_at(good[0]) if good else None

    def write(self, file: Path) -> None:
        write_atomically(file, json.dumps(asdict(self), indent=1) + "\n")

    @classmethod
    def read(cls, file: Path) -> "Outcome":
        found = json.loads(file.read_text())
        for name in ("weights", "accuracy"):
            found[name] = {int(step): value for step, value in found[name].items()}
        return cls(**found)


def outcome(side: str, seed: int, task: Task, measured: Measured, **rest) -> Outcome:
    return Outcome(
        side=side, seed=seed, cpu_a_step=measured.cpu_a_step(stretches([*task.kept], task.steps)),
        whole_wall=measured.wall, whole_cpu=measured.cpu, peak_memory=measured.peak, others=measured.others, **rest,
    )  # fmt: skip


@dataclass(frozen=True)
class TRL:
    """TRL's GRPOTrainer by benchmarks/trl/train.py. batch: completions a microbatch; None: all of a step."""

    threads: int = 2
    batch: int | None = None

    @property
    def label(self) -> str:
        return f"TRL, {self.threads} thread{'s' * (self.threads > 1)}"

    @property
    def name(self) -> str:
        return f"trl-{self.threads}"

    def run(self, task: Task, seed: int, folder: Path) -> Outcome:
        rows = len(read_lines(task.rows(seed) / "train.jsonl")[0])
        settings = {
            "model": str(task.model.absolute()),
            "rows": str((task.rows(seed) / "prompts.jsonl").absolute()),
            "folder": str(folder.absolute()),
            "threads": self.threads,
            "dtype": task.plan.get("actor.dtype"),
            "keep_at": list(task.kept),
            "stop_at": task.steps,
            "arguments": task.trl_arguments(seed, rows, self.batch),
        }
        file, found = folder / "settings.json", folder / "steps.jsonl"
        write_atomically(file, json.dumps(settings, indent=1) + "\n")
        program = PROJECT / "benchmarks" / "trl" / "train.py"
        command = [str(environment.python()), str(program), str(file.absolute())]
        inherited = {
            name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))
        }
        offline = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": str(self.threads)}
        measured = measure(command, folder / "output.log", _counted(found), inherited | offline)
        steps = [
            {
                "step": row["step"], "wall": row["wall"], "reward": row["reward"],
                "tokens": round(row["completions/mean_length"] * task.completions),
            }
            for row in read_lines(found)[0][1:]
        ]  # fmt: skip
        kept = {step: str(folder / "weights" / f"step_{step:05d}") for step in task.kept if step <= task.steps}
        software = json.loads((folder / "software.json").read_text())
        return outcome(
            self.label, seed, task, measured, settings=settings, software=software, steps=steps, weights=kept
        )


@dataclass(frozen=True)
class Ours:
    """`gsm8k train`. name: of the variant; extra: what sets it apart."""

    name: str
    label: str
    extra: tuple[str, ...] = ()

    def run(self, task: Task, seed: int, folder: Path) -> Outcome:
        run = Run(folder)
        place = [f"runs_dir={folder.parents[1]}", f"experiment_name={folder.parent.name}", f"trial_name={folder.name}"]
        arguments = [*task.our_arguments(seed, self.extra), *place]
        command = [sys.executable, "-m", "areal_gsm8k", "train", *arguments]
        measured = measure(command, folder.with_suffix(".log"), _counted(run.metrics))
        steps, wall = [], 0.0
        for row in run.read_metrics():
            if "time/step" in row:
                wall += row["time/step"] - sum(row.get(name) or 0.0 for name in OUTSIDE)
                tokens = round(row["completion_tokens"] * task.completions)
                steps.append({"step": row["step"], "wall": wall, "reward": row["reward"], "tokens": tokens})
        kept = {step: str(run.checkpoints / f"step_{step:05d}") for step in task.kept if step <= task.steps}
        software = json.loads(run.environment.read_text())["packages"]
        return outcome(
            self.label,
            seed,
            task,
            measured,
            settings={"arguments": arguments},
            software=software,
            steps=steps,
            weights=kept,
        )


def _counted(file: Path) -> Callable[[], int]:
    """A function that tells the newest step of a growing file of rows; -1 before the first."""
    read = {"offset": 0, "step": -1}

    def steps() -> int:
        rows, read["offset"] = read_lines(file, read["offset"])
        read["step"] = max([read["step"], *(row["step"] for row in rows)])
        return read["step"]

    return steps
