"""The before/after summary of a run, computed from its graded dev completions, as summary.json and as a table."""

import json

from rich.table import Table

from areal_gsm8k.grading.parser import GRADER_VERSION
from areal_gsm8k.report.gain_split import Rates, gain_split
from areal_gsm8k.runs.files import read_lines, write_atomically
from areal_gsm8k.runs.records import RATES
from areal_gsm8k.runs.run import Run
from areal_gsm8k.runs.samples import evaluated_steps
from areal_gsm8k.statistics import gained_lost, in_per_cent, wilson_interval

LABELS = {
    "accuracy": "accuracy", "accuracy_strict": "strict", "format_rate": "format followed", "truncated": "truncated",
}  # fmt: skip
SPLIT = ("accuracy_strict", "accuracy", "format_rate")


def build(run: Run, facts: dict) -> dict:
    """The summary of a finished run; `facts` holds format, model, data, wall_seconds, command and the like.

    Raises ValueError when the run lacks an evaluation before or after, or the two are of different items.
    """
    steps = evaluated_steps(run)
    if len(steps) < 2:
        raise ValueError(f"{run.root} holds {len(steps)} evaluations; a summary needs one before and one after.")
    files = [run.evaluation(step) for step in (steps[0], steps[-1])]
    before, after = (read_lines(file)[0] for file in files)
    if [row["row"] for row in before] != [row["row"] for row in after]:
        raise ValueError(f"{files[0].name} and {files[1].name} are of different items.")
    summary = {"n": len(before), "steps": steps[-1]}
    for when, rows in (("before", before), ("after", after)):
        for name, field in RATES.items():
            summary[f"{name}_{when}"] = _count(rows, field) / len(rows)
        summary[f"interval_{when}"] = wilson_interval(_count(rows, "lenient"), len(rows))
        summary[f"errors_{when}"] = _count(rows, "error")
    right = ([bool(row.get("lenient")) for row in rows] for rows in (before, after))
    summary["gained"], summary["lost"] = gained_lost(*right)
    rates = (Rates(*(summary[f"{name}_{when}"] for name in SPLIT)) for when in ("before", "after"))
    summary["gain_split"] = gain_split(*rates)._asdict()
    return summary | _common(run) | facts


def without_evaluations(run: Run, facts: dict) -> dict:
    """The summary of a finished run that never evaluates."""
    return {"steps": run.read_metrics()[-1]["step"]} | _common(run) | facts


def _common(run: Run) -> dict:
    return {"server_restarts": len(read_lines(run.restarts)[0]), "grader": GRADER_VERSION}


def write(run: Run, summary: dict) -> None:
    write_atomically(run.summary, json.dumps(summary, indent=2) + "\n")


def _count(rows: list[dict], field: str) -> int:
    return sum(bool(row.get(field)) for row in rows)


def changes(summary: dict) -> list[tuple[str, str, str, str]]:
    """Label, before, after and the change in points of every rate; the accuracy with its intervals on a second line."""
    rows = []
    for key, label in LABELS.items():
        before, after = summary[f"{key}_before"], summary[f"{key}_after"]
        shown = [f"{before:.1%}", f"{after:.1%}"]
        if key == "accuracy":
            bounds = (summary[f"interval_{when}"] for when in ("before", "after"))
            shown = [f"{rate}\n{in_per_cent(*pair)}" for rate, pair in zip(shown, bounds, strict=True)]
        rows.append((label, *shown, f"{100 * (after - before):+.1f}"))
    return rows


def table(summary: dict) -> Table:
    """Before and after on the same items, with 95 % Wilson intervals."""
    view = Table(title=f"{summary['n']} {summary['split']} problems, {summary['decoding']}, the same before and after")
    view.add_column("")
    for column in ("before", "after", "change"):
        view.add_column(column, justify="right")
    for label, before, after, change in changes(summary):
        indented = f"  {label}" if label == LABELS["accuracy_strict"] else label  # a part of the accuracy
        view.add_row(indented, before.replace("\n", " "), after.replace("\n", " "), f"{change} points")
    view.add_row("questions gained / lost", "", f"{summary['gained']} / {summary['lost']}", "")
    return view
