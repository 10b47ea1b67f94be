"""What the runs of both sides come to: tables for the terminal, one JSON file, one picture."""

import itertools
import json
import statistics
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from areal_gsm8k.runs import environment
from areal_gsm8k.runs.files import replacing, write_atomically
from benchmarks.trl.sides import Outcome

GOOD = 0.80  # the dev accuracy that is timed
FEW = 5  # steps, each of which is shown


def by_side(outcomes: Sequence[Outcome]) -> dict[str, list[Outcome]]:
    found: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        found.setdefault(outcome.side, []).append(outcome)
    return found


def show(outcomes: Sequence[Outcome], console: Console) -> None:
    """The costs of each side, and where weights were evaluated the accuracy by step, one value a seed."""
    if any(outcome.accuracy for outcome in outcomes):
        console.print(_learning(by_side(outcomes)))
    console.print(_costs(by_side(outcomes)))
    busiest = max(outcomes, key=lambda outcome: outcome.others)
    console.print(
        f"Other programs took at most {busiest.others:.0%} of the machine ({busiest.side}, seed {busiest.seed})."
    )


def _learning(sides: dict[str, list[Outcome]]) -> Table:
    table = Table("step", title="dev accuracy, greedy, a value for each seed; wall seconds, evaluations left out")
    for side in sides:
        table.add_column(f"{side}: accuracy")
        table.add_column("wall s", justify="right")
    for step in sorted({step for runs in sides.values() for run in runs for step in run.accuracy}):
        cells = []
        for runs in sides.values():
            there = [run for run in runs if step in run.accuracy]
            cells += [" / ".join(f"{run.accuracy[step]:.3f}" for run in there)]
            cells += [_range([run.wall_at(step) for run in there], "{:.0f}")]
        table.add_row(str(step), *cells)
    good = [_each([run.seconds_to(GOOD) for run in runs], "{:.0f}") for runs in sides.values()]
    table.add_row(f"{GOOD:.2f} after s", *[cell for seconds in good for cell in (seconds, "")])
    return table


def _costs(sides: dict[str, list[Outcome]]) -> Table:
    names = "wall s a step", "CPU s a step", "tokens a step", "peak MB", "whole program: wall s", "CPU s"
    table = Table("", *names, title="costs: means over the seeds, of memory the most")
    for side, runs in sides.items():
        cpu = [run.cpu_a_step for run in runs if run.cpu_a_step is not None]
        tokens = [row["tokens"] for run in runs for row in run.steps]
        wall = f"{_mean([run.wall_a_step for run in runs]):.3f}"
        if len(runs[0].steps) <= FEW:
            ends = [0.0, *(row["wall"] for row in runs[0].steps)]
            wall += " (" + ", ".join(f"{after - before:.1f}" for before, after in itertools.pairwise(ends)) + ")"
        table.add_row(
            side,
            wall,
            f"{_mean(cpu):.3f}" if cpu else "-",
            f"{_mean(tokens):,.0f}",
            f"{max(run.peak_memory for run in runs) / 1e6:,.0f}",
            f"{_mean([run.whole_wall for run in runs]):.0f}",
            f"{_mean([run.whole_cpu for run in runs]):.0f}",
        )
    return table


_mean = statistics.fmean


def _range(values: list[float], form: str) -> str:
    ends = [form.format(value) for value in (min(values), max(values))] if values else ["-"]
    return "-".join(dict.fromkeys(ends))


def _each(values: list[float | None], form: str) -> str:
    return " / ".join("never" if value is None else form.format(value) for value in values)


def write(outcomes: Sequence[Outcome], folder: Path) -> None:
    """results.json: machine and, of every run, settings, versions, steps and results; accuracy.png."""
    runs = []
    for outcome in outcomes:
        derived = {"wall_a_step": outcome.wall_a_step, f"seconds_to_{GOOD:.2f}": outcome.seconds_to(GOOD)}
        runs.append(vars(outcome) | derived)
    found = {"machine": environment.describe(), "runs": runs}
    write_atomically(folder / "results.json", json.dumps(found, indent=1) + "\n")
    if any(outcome.accuracy for outcome in outcomes):
        draw(outcomes, folder / "accuracy.png")


def draw(outcomes: Sequence[Outcome], file: Path) -> None:
    """Accuracy over wall time, and over steps: thin a line a seed, bold their mean."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(13, 5), sharey=True, constrained_layout=True)
    for number, (side, runs) in enumerate(by_side(outcomes).items()):
        shared = sorted(set.intersection(*(set(run.accuracy) for run in runs)))
        for axis, x in ((axes[0], Outcome.wall_at), (axes[1], lambda _, step: step)):
            for run in runs:
                steps = sorted(run.accuracy)
                axis.plot(
                    [x(run, step) for step in steps], [run.accuracy[step] for step in steps],
                    color=f"C{number}", alpha=0.35, linewidth=1,
                )  # fmt: skip
            axis.plot(
                [_mean([x(run, step) for run in runs]) for step in shared],
                [_mean([run.accuracy[step] for run in runs]) for step in shared],
                color=f"C{number}", linewidth=2.5, marker="o", markersize=4, label=f"{side} ({len(runs)} seeds)",
            )  # fmt: skip
    for axis, label in zip(axes, ("wall seconds of training, evaluations left out", "step"), strict=True):
        axis.axhline(GOOD, color="grey", linewidth=0.8, linestyle="--")
        axis.set(xlabel=label)
        axis.grid(alpha=0.3)
    axes[0].set(ylabel="dev accuracy, greedy")
    axes[0].legend(loc="lower right")
    with replacing(file) as out:
        figure.savefig(out, dpi=120, format="png")
    plt.close(figure)
