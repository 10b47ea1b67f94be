"""Where a step's time goes: mean seconds of each phase as a table, a stacked picture and JSON.

    ./run python -m benchmarks.step                            # the tiny recipe, synchronous and one step ahead
    ./run python -m benchmarks.step runs/tiny-grpo/a runs/tiny-grpo/b --out both     # of runs that are there

`rollout` is the wait for a batch, `rest` what no phase of AReaL's names: statistics, files, the loop itself. Phases of
a run that the benchmark makes come with the cores that all its processes kept busy.
"""

import argparse
import json
import shutil
import statistics
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

from areal_gsm8k.paths import PROJECT
from areal_gsm8k.plan.speed.recorded import OUTSIDE
from areal_gsm8k.runs import environment
from areal_gsm8k.runs.files import replacing, write_atomically
from areal_gsm8k.runs.run import Run
from benchmarks.trl.measured import measure

STEPS, WARM_UP = 60, 10
MADE = {"synchronous": "rollout.max_head_offpolicyness=0", "one-ahead": "rollout.max_head_offpolicyness=1"}
QUIET = (
    "preflight=off", "report=off", "kl_reference=false", "expected_band=null", "data.dev_rows=8",
    "evaluator.freq_steps=1000", "recover.freq_steps=1000", f"total_train_steps={STEPS}",
)  # fmt: skip
PHASES = ("rollout", "reference", "logprobs", "advantages", "train", "update_weights", "rest")


def phases(run: Run) -> dict[str, float]:
    """Mean seconds of each phase over the steps after the warm-up, evaluations and saving left out; `step`: of all."""
    rows = [row for row in run.read_metrics() if "time/step" in row]
    rows = rows[min(WARM_UP, len(rows) // 2) :]
    if not rows:
        sys.exit(f"{run.root}: no steps yet")
    named = {name: statistics.fmean(row.get(f"time/{name}") or 0.0 for row in rows) for name in PHASES[:-1]}
    step = statistics.fmean(row["time/step"] - sum(row.get(key) or 0.0 for key in OUTSIDE) for row in rows)
    return named | {"rest": step - sum(named.values()), "step": step}


def make(name: str, folder: Path) -> tuple[Run, float | None]:
    """Make the run anew; returns it with CPU seconds a step of all its processes."""
    run = Run(folder / "runs" / name)
    shutil.rmtree(run.root, ignore_errors=True)
    place = [f"runs_dir={folder.absolute()}", "experiment_name=runs", f"trial_name={name}"]
    command = [sys.executable, "-m", "areal_gsm8k", "train", "--config", "configs/cpu.yaml", *QUIET, MADE[name], *place]

    def done() -> int:
        return max((row["step"] for row in run.read_metrics()), default=-1)

    measured = measure(command, folder / f"{name}.log", done)
    return run, measured.cpu_a_step([(WARM_UP, STEPS - 1)])


def show(found: dict[str, dict], console: Console) -> None:
    table = Table("run", *PHASES, "step", "cores busy", title="seconds of a step, mean")
    for name, times in found.items():
        busy = f"{times['cpu'] / times['step']:.2f}" if times.get("cpu") else "-"
        table.add_row(name, *[f"{times[phase]:.3f}" for phase in (*PHASES, "step")], busy)
    console.print(table)


def draw(found: dict[str, dict], file: Path) -> None:
    """A bar a run, its phases one after the other."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(10, 1.5 + 0.6 * len(found)), constrained_layout=True)
    ends = dict.fromkeys(found, 0.0)
    for phase in PHASES:
        seconds = [max(0.0, times[phase]) for times in found.values()]
        axis.barh(list(found), seconds, left=list(ends.values()), label=phase)
        ends = {name: end + more for (name, end), more in zip(ends.items(), seconds, strict=True)}
    axis.invert_yaxis()
    axis.set(xlabel="seconds of a step")
    axis.legend(ncols=len(PHASES), loc="upper center", bbox_to_anchor=(0.5, 1.25), fontsize=8)
    with replacing(file) as out:
        figure.savefig(out, dpi=120, format="png")
    plt.close(figure)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", nargs="*", type=Path, help="folders of runs; none: make the tiny recipe's")
    parser.add_argument("--out", type=Path, default=PROJECT / "runs" / "step-times", help="folder (%(default)s)")
    options = parser.parse_args(arguments)
    found = {folder.name: phases(Run(folder)) for folder in options.run}
    if not found:
        for name in MADE:
            run, cpu = make(name, options.out)
            found[name] = phases(run) | {"cpu": cpu}
    show(found, Console(width=150, highlight=False))
    write_atomically(
        options.out / "step.json", json.dumps({"machine": environment.describe(), "runs": found}, indent=1) + "\n"
    )
    draw(found, options.out / "step.png")


if __name__ == "__main__":
    main()
