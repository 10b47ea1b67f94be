"""`gsm8k samples`: the completions of a run's model in one training step, and their rewards.

gsm8k samples runs/tiny-grpo/20261121_101500 --step 3 --wrong
gsm8k samples runs/tiny-grpo/20261121_101500 --step 3 --group 0-5
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from areal_gsm8k.cli import text
from areal_gsm8k.runs import samples as samples_of
from areal_gsm8k.runs.samples import SamplesError

if TYPE_CHECKING:
    from rich.console import Console

    from areal_gsm8k.runs.run import Run

SHOWN = 10
COLUMN = 38  # characters of a group's column
LONGEST_IN_COLUMN = 1200


def samples(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder.")],
    step: Annotated[int | None, typer.Option(min=0, help="Training step; the last one with samples.")] = None,
    right: Annotated[bool, typer.Option("--right", help="Only right answers.")] = False,
    wrong: Annotated[bool, typer.Option("--wrong", help="Only wrong answers.")] = False,
    truncated: Annotated[bool, typer.Option("--truncated", help="Only cut-off completions.")] = False,
    error: Annotated[
        bool,
        typer.Option(
            "--error",
            help="Instead what no step consumed, and why: it failed, or its group was rejected. With --eval: what got "
            "no verdict.",
        ),
    ] = False,
    group: Annotated[str | None, typer.Option(help="One group's samples side by side.")] = None,
    grep: Annotated[str | None, typer.Option(metavar="TEXT", help="Only with this text, whatever its case.")] = None,
    evaluation: Annotated[
        bool, typer.Option("--eval", help="Instead the dev evaluation after the step (0: the start model).")
    ] = False,
    n: Annotated[
        int | None, typer.Option(min=1, help=f"Show at most so many; {SHOWN}, and with --json or --group all.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="JSON lines, whole.")] = False,
) -> None:
    """Show the samples of one training step: question, completion, verdict, reward, advantage, policy version."""
    console = text.console()
    with text.errors_told(SamplesError):
        if group is not None and (evaluation or error):
            raise SamplesError("--group: only samples that a step consumed have groups; leave out --eval and --error")
        rows, title = find(samples_of.open_run(run), step, evaluation, error)
        chosen = one_group(rows, group) if group is not None else rows
        chosen = samples_of.select(chosen, right, wrong, truncated, error and evaluation, grep)
    limit = n or (len(chosen) if as_json or group is not None else SHOWN)
    if as_json:
        for row in chosen[:limit]:
            sys.stdout.write(json.dumps(row) + "\n")  # ASCII: no character acts on a terminal
        return
    console.print(title)
    if group is not None and chosen:
        show_group(chosen[:limit], console)
    else:
        for row in chosen[:limit]:
            console.print()
            show(row, console)
    if not chosen:
        console.print("None of them fits.")
    elif limit < len(chosen):
        console.print(f"\n{limit} of {len(chosen)} shown; --n {len(chosen)} shows all.")


def find(run: Run, step: int | None, evaluation: bool, rejected: bool) -> tuple[list[dict], str]:
    """The requested rows, and one line on all of them. Raises SamplesError."""
    if evaluation:
        step = step if step is not None else max(samples_of.evaluated_steps(run), default=0)
        rows = samples_of.read_evaluation(run, step)
        return rows, f"dev evaluation after step {step}: {_counts(rows)}"
    if rejected:
        rows = samples_of.read_rejected(run)
        if not rows:
            raise SamplesError(f"{run.root}: every sample so far was consumed by a step; there are none with --error")
        there = sorted({row["step"] for row in rows})
        step = step if step is not None else there[-1]
        if step not in there:
            raise SamplesError(f"{run.root}: nothing was rejected in step {step}, but in {samples_of.spans(there)}")
        rows = [row for row in rows if row["step"] == step]
        return rows, f"step {step}: {len(rows)} samples that no step consumed"
    step = step if step is not None else max(samples_of.steps(run), default=1)
    rows = samples_of.read(run, step)
    groups = samples_of.groups(rows).values()
    silent = sum(not samples_of.has_signal(group) for group in groups)
    reward = sum(row["reward"] for row in rows) / len(rows)
    return rows, (
        f"step {step}: {_counts(rows)}; {len(groups)} groups, {silent} without signal; mean reward {reward:.3f}"
    )


def _counts(rows: list[dict]) -> str:
    kinds = {name: len(samples_of.select(rows, **{name: True})) for name in ("right", "wrong", "truncated", "error")}
    counted = [f"{count} {name}" for name, count in kinds.items() if count or name in ("right", "wrong")]
    return f"{len(rows)} samples, {', '.join(counted)}"


def one_group(rows: list[dict], name: str) -> list[dict]:
    groups = samples_of.groups(rows)
    if name not in groups:
        raise SamplesError(f"--group {name}: no such group in this step; there are {', '.join(groups)}")
    return groups[name]


def show(row: dict, console: Console) -> None:
    """One sample, a field a line."""
    console.print(", ".join(facts(row)), style="bold")
    for name in ("question", "completion", "reference"):
        if row.get(name) is not None:
            text.field(name, row[name], console)
        if name == "completion" and "rule" in row:
            text.field("answer", _extracted(row), console)
    for name in ("error", "rejected"):
        if row.get(name):
            text.field(name, str(row[name]), console)
            break


def facts(row: dict) -> list[str]:
    """The first line of a sample: its origin, the verdict and the reward."""
    found = [f"sample {row['id']}"]
    found += [f"{name} {row[name]}" for name in ("group", "position") if row.get(name) is not None]
    if "lenient" in row:
        found.append(verdict(row))
    if row.get("truncated"):
        found.append("truncated")
    if row.get("reward") is not None:
        parts = row.get("parts") or {}
        of = f" ({', '.join(f'{name} {part:g}' for name, part in parts.items())})" if len(parts) > 1 else ""
        found.append(f"reward {row['reward']:g}{of}")
    if row.get("advantage") is not None:
        found.append(f"advantage {signed(row['advantage'])}")
    if row.get("versions"):
        found.append(f"policy version {samples_of.spans(row['versions'])}")
    if "completion_tokens" in row:
        found.append(f"{row['completion_tokens']} tokens")
    return found


def verdict(row: dict) -> str:
    judged = "right" if row["lenient"] else "wrong"
    return judged if row.get("strict") or not row["lenient"] else f"{judged} but not in the asked-for format"


def signed(advantage: float) -> str:
    """An advantage with its sign; that of equal rewards, which is 0 but for rounding, has no sign."""
    return f"{advantage:+.3f}" if round(advantage, 3) else "0"


def _extracted(row: dict) -> str:
    if row["rule"] is None:
        return "none: nothing that could be an answer"
    return f"{row['extracted']}   (rule: {row['rule']})"


def show_group(rows: list[dict], console: Console) -> None:
    """The samples of one question side by side; without a terminal one after the other."""
    text.field("question", rows[0]["question"], console)
    text.field("reference", rows[0]["reference"], console)
    if not console.is_terminal:
        for row in rows:
            console.print()
            show({name: value for name, value in row.items() if name not in ("question", "reference")}, console)
        return
    from rich.columns import Columns
    from rich.panel import Panel
    from rich.text import Text

    def panel(row: dict) -> Panel:
        wrote = text.printable(text.shortened(row["completion"], LONGEST_IN_COLUMN))
        paid = f"reward {row['reward']:g}, advantage {signed(row['advantage'])}"
        return Panel(
            Text(wrote, overflow="fold"),
            title=Text(f"{row['id']}: {verdict(row)}{', truncated' if row.get('truncated') else ''}"),
            subtitle=Text(paid),
            border_style="green" if row["lenient"] else "red",
            width=COLUMN,
        )

    console.print(Columns([panel(row) for row in rows]), soft_wrap=False)
