"""Predicted beside measured step times: the tiny recipe at several splits, batch sizes and staleness bounds.

    python -m benchmarks.scaling --out scaling-runs              # about half an hour on a quiet machine of 2 cores
    python -m benchmarks.scaling --out scaling-runs --show       # the table again, of the runs that are there

The speeds come from the first run alone, and every other run is predicted from it; in a second table the runs with two
trainers are predicted from one of them. Other work on the
machine is watched: only steps count during which it took less than a twentieth of all cores, and a run with fewer than
ten of them is made again.
"""

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import psutil
from rich.console import Console
from rich.table import Table

from areal_gsm8k.config.compose import make_plan
from areal_gsm8k.plan.speed import recorded
from areal_gsm8k.plan.speed.splits import Prediction, Speeds, predict
from areal_gsm8k.plan.speed.workload import Workload
from areal_gsm8k.runs.files import write_atomically
from areal_gsm8k.runs.run import Run
from areal_gsm8k.sft import tiny
from benchmarks.process_tree import ProcessTree

CPU = Path("configs/cpu.yaml")
COMMON = (
    "preflight=off", "report=off", "kl_reference=false", "expected_band=null", "data.dev_rows=8",
    "evaluator.freq_steps=1000", "recover.freq_steps=1000",
)  # fmt: skip
BATCH = 8  # prompts a step of the recipe
SYNCHRONOUS, AHEAD = "rollout.max_head_offpolicyness=0", "rollout.max_head_offpolicyness=1"
TWO_SERVERS, TWO_TRAINERS = "allocation_mode=embedded.d2+fsdp.d1", "allocation_mode=embedded.d1+fsdp.d2"
CALIBRATION = "calibration"
CASES = {
    CALIBRATION: (SYNCHRONOUS, "total_train_steps=40"),
    "bound-1": (AHEAD,),
    "2-servers": (SYNCHRONOUS, TWO_SERVERS),
    "2-trainers": (SYNCHRONOUS, TWO_TRAINERS),
    "bound-2": ("rollout.max_head_offpolicyness=2",),
    "bound-4": ("rollout.max_head_offpolicyness=4",),
    "2-servers-bound-1": (AHEAD, TWO_SERVERS),
    "2-trainers-bound-1": (AHEAD, TWO_TRAINERS),
    "batch-4": (SYNCHRONOUS, "train_dataset.batch_size=4"),
    "batch-16": (SYNCHRONOUS, "train_dataset.batch_size=16"),
    "group-4": (SYNCHRONOUS, "gconfig.n_samples=4"),
    "batch-16-bound-1": (AHEAD, "train_dataset.batch_size=16"),
    "group-16-bound-1": (AHEAD, "gconfig.n_samples=16"),
    "2-servers-2-trainers": (SYNCHRONOUS, "allocation_mode=embedded.d2+fsdp.d2"),
    "one-prompt-at-once": (AHEAD, "rollout.max_concurrent_rollouts=1"),
}
PREDICTIONS = {  # from each of these, the others
    CALIBRATION: [name for name in CASES if name != CALIBRATION],
    "2-trainers": ["2-trainers-bound-1", "2-servers-2-trainers"],
}
QUIET = 0.05  # share of all cores that others may take
ENOUGH = 10  # steps that count
WARM_UP = 5  # steps that do not


def handling(tree: ProcessTree) -> float:
    """CPU seconds of the trainers' threads beside the main one: they ask for completions, grade and record them."""
    trainers = [process for process in tree.processes() if "areal_gsm8k.launch.prewarm" in process.cmdline()]
    threads = [thread for process in trainers for thread in process.threads() if thread.id != process.pid]
    return sum(thread.user_time + thread.system_time for thread in threads)


def make(run: Run, overrides: list[str], console: Console) -> None:
    """The run, if it is not there, until enough of its steps were quiet; beside it a note of these."""
    note = run.root.with_suffix(".json")
    while not note.exists():
        quiet, handled = measure(run, overrides)
        said = f"{time.strftime('%X')} {run.root.name}: {len(quiet)} quiet steps"
        if len(quiet) >= ENOUGH:
            write_atomically(note, json.dumps({"quiet": quiet, "handling": handled}))
            said += f", {statistics.fmean(row['seconds'] for row in counted(run)):.3f} s each"
        console.print(said)


def measure(run: Run, overrides: list[str]) -> tuple[list[int], float]:
    """Make the run; returns the steps after the warm-up during which others left the machine alone.

    And CPU seconds of the trainers a step for handling completions.
    """
    shutil.rmtree(run.root, ignore_errors=True)
    place = [f"runs_dir={run.root.parents[1]}", f"experiment_name={run.root.parent.name}"]
    command = [sys.executable, "-m", "areal_gsm8k", "train", "--config", str(CPU), *place, *overrides]
    run.root.parent.mkdir(parents=True, exist_ok=True)
    seen = []  # monotonic time, CPU seconds of others, steps on file, CPU seconds of handling
    with run.root.with_suffix(".out").open("w") as out:
        process = subprocess.Popen([*command, f"trial_name={run.root.name}"], stdout=out, stderr=subprocess.STDOUT)
        tree = ProcessTree(process.pid)
        while process.poll() is None:
            time.sleep(0.5)
            with suppress(psutil.Error):  # a process that is just ending
                looked = tree.look(memory=False)
                seen.append((looked.time, looked.others, len(run.read_metrics()) - 1, handling(tree)))
    if process.returncode:
        sys.exit(f"{' '.join(command)} ended with {process.returncode}: see {out.name}")
    quiet = []
    for step in range(WARM_UP + 1, seen[-1][2]):
        before = max(look for look in seen if look[2] < step - 1)  # the step before was under way
        after = min(look for look in seen if look[2] >= step)
        share = (after[1] - before[1]) / (after[0] - before[0]) / psutil.cpu_count()
        quiet += [step] * (share < QUIET)
    trained = [look for look in seen if WARM_UP <= look[2] < seen[-1][2] - 1]
    return quiet, (trained[-1][3] - trained[0][3]) / (trained[-1][2] - trained[0][2])


def noted(run: Run) -> dict:
    return json.loads(run.root.with_suffix(".json").read_text())


def counted(run: Run) -> list[dict]:
    """Rows of the steps that count, with the time of each as the simulation means it."""
    quiet = noted(run)["quiet"]
    rows = [row for row in run.read_metrics() if row["step"] in quiet and "time/step" in row]
    return [
        row | {"seconds": row["time/step"] - sum(row.get(name) or 0.0 for name in recorded.OUTSIDE)} for row in rows
    ]


def predicted(calibration: recorded.Recorded, case: tuple[str, ...]) -> Prediction:
    plan = make_plan([CPU], [*COMMON, *case], gpus=0)
    speeds = Speeds(calibration.server, calibration.trainer, psutil.cpu_count())
    lengths = recorded.resampled(calibration.groups, plan.get("gconfig.n_samples"))
    return predict(speeds, Workload.of(plan.values, lengths), plan.allocation)


def speeds_of(run: Run) -> recorded.Recorded:
    """What the run tells, with the handling that was measured beside it."""
    found, note = recorded.read(run.root, noted(run)["quiet"]), noted(run)
    completions = statistics.fmean(len(group) for group in found.groups) * BATCH
    return replace(found, trainer=replace(found.trainer, handling=note["handling"] / completions))


def show(runs: dict[str, Run], console: Console) -> None:
    names = "step s", "predicted", "off by", "wait s", "predicted", "staleness", "predicted", "steps"
    for source, cases in PREDICTIONS.items():
        speeds = speeds_of(runs[source])
        server, trainer = speeds.server, speeds.trainer
        console.print(
            f"{source}: a decoding step {1e3 * server.floor:.2f} ms + {1e3 * server.each:.3f} ms a token; training "
            f"{1e3 * trainer.per_token:.3f} ms a token; update {trainer.update:.3f} s; records {trainer.record:.3f} s; "
            f"handling {1e3 * trainer.handling:.2f} ms a completion"
        )
        table = Table(f"from {source}", *names)
        for name in (name for name in (source, *cases) if runs[name].root.with_suffix(".json").exists()):
            rows, found = counted(runs[name]), predicted(speeds, CASES[name])
            step, wait, staleness = (
                statistics.fmean(row[key] for row in rows) for key in ("seconds", "time/rollout", "staleness")
            )
            table.add_row(
                name, f"{step:.3f}", f"{found.step:.3f}", f"{found.step / step - 1:+.0%}", f"{wait:.3f}",
                f"{found.wait:.3f}", f"{staleness:.2f}", f"{found.staleness:.2f}", f"{len(rows)}",
            )  # fmt: skip
        console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs; those that are there are kept")
    parser.add_argument("--show", action="store_true", help="make no run")
    options = parser.parse_args()
    console = Console(width=120, highlight=False)
    options.out.mkdir(parents=True, exist_ok=True)
    runs = {name: Run(options.out / "scaling" / name) for name in CASES}
    if not options.show:
        start = tiny.start_model(options.out / "start", seed=1)
        for name, run in runs.items():
            make(run, [f"actor.path={start}", *COMMON, "total_train_steps=30", *CASES[name]], console)
    show(runs, console)


if __name__ == "__main__":
    main()
