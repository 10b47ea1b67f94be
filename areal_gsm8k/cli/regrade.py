"""The half of `gsm8k replay` that computes another reward for a run's samples; nothing is trained.

gsm8k replay runs/tiny-grpo/20261121_101500 --reward accuracy=1,format=0.5 --out regraded.jsonl
"""

from __future__ import annotations

import heapq
import os
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from areal_gsm8k.cli import text
from areal_gsm8k.cli.samples import signed, verdict
from areal_gsm8k.grading import parser
from areal_gsm8k.grading.advantages import not_reproduced
from areal_gsm8k.replay.regrade import ZERO, Regraded, RegradeError, Regrader, RewardChange, described, summarise, total
from areal_gsm8k.runs import samples
from areal_gsm8k.runs.files import append_lines
from areal_gsm8k.runs.run import Run

if TYPE_CHECKING:
    from rich.console import Console

SHOWN = 10  # samples whose advantages change most
TOLERANCE = 1e-4  # between recorded and computed advantages: float32, and sums in another order
COLUMNS = ("step", "samples", "reward", "now", "other sign", "signal gained", "lost", "errors")


def regrade(
    folder: Path, overrides: list[str], step: int | None, steps: str | None, out: Path | None, console: Console
) -> None:
    """Regrade and print. Raises ValueError (a key, a range, a file), RewardError or OSError."""
    run = samples.open_run(folder)
    config = samples.configuration(run)
    chosen = choose(run, step, steps)
    if out and out.resolve().is_relative_to(run.root.resolve()):
        raise RegradeError(f"--out {out}: lies in the run, into which nothing is written; choose another place")
    regrader = Regrader(run, config, overrides)
    console.print(f"paid before: {described(regrader.recorded)}\npaid now:    {described(regrader.settings)}\n")
    console.print("  ".join(f"{name:>7}" for name in COLUMNS), style="bold")
    changes: list[RewardChange] = []
    failures: Counter[str] = Counter()
    largest: list[Regraded] = []
    partial = out and out.with_name(f".{out.name}.{os.getpid()}")
    try:
        for number in chosen:
            regraded = regrader.step(number)
            changes.append(summarise(regraded))
            failures.update(one.error for one in regraded if one.error)
            console.print(line(str(number), changes[-1]))
            largest = heapq.nlargest(SHOWN, [*largest, *regraded], key=lambda one: abs(one.change))
            if partial:
                append_lines(partial, map(as_row, regraded), sync=number == chosen[-1])
        if partial:
            os.replace(partial, out)
    finally:
        regrader.close()
        if partial:
            partial.unlink(missing_ok=True)
    whole = total(changes)
    console.print(line("all", whole), style="bold")
    for note in [*notes(run, config, whole), *reasons(failures)]:
        console.print(text.printable(f"\n{note}"))
    show_largest([one for one in largest if abs(one.change) > ZERO], console)
    if out:
        console.print(f"\nEvery sample with its new reward: {out}")


def choose(run: Run, step: int | None, steps: str | None) -> list[int]:
    """The requested steps that have samples. Raises RegradeError."""
    there = samples.steps(run)
    if step is not None and steps is not None:
        raise RegradeError("--step and --steps: give one of the two")
    low, _, high = (steps or str(step)).partition("-")
    if step is None and steps is None:
        chosen = there
    elif low.strip().isdigit() and (high or low).strip().isdigit():
        chosen = [number for number in there if int(low) <= number <= int(high or low)]
    else:
        raise RegradeError(f"--steps {steps}: write the first and the last step, such as 1-20")
    if not chosen:
        has = f"there are steps {samples.spans(there)}" if there else "there are none yet"
        raise RegradeError(f"{run.root}: no samples of these steps; {has}")
    return chosen


def line(name: str, change: RewardChange) -> str:
    cells = (
        name,
        f"{change.samples:,}",
        *("-" if mean is None else f"{mean:.3f}" for mean in (change.reward_before, change.reward)),
        *(f"{count:,}" for count in (change.sign_changes, change.gained, change.lost, change.errors)),
    )
    return "  ".join(f"{cell:>{max(7, len(column))}}" for cell, column in zip(cells, COLUMNS, strict=True))


def notes(run: Run, config: dict, change: RewardChange) -> list[str]:
    """The notes that a reader of the figures needs."""
    found = [
        "Other sign: samples whose advantage turned between positive, zero and negative. Signal gained, lost: of "
        f"{change.groups:,} groups, those whose rewards now differ, and those whose rewards are now all equal."
    ]
    if change.disagreement <= TOLERANCE:
        found.append(
            "Checked: from the recorded rewards, the advantages computed here are the recorded ones, within "
            f"{change.disagreement:.0e}."
        )
    else:
        reasons = ", ".join(not_reproduced(config["actor"])) or "unknown; the configuration or the samples were changed"
        found.append(
            f"From the recorded rewards, the advantages computed here differ from the recorded ones by up to "
            f"{change.disagreement:.2g}, so read the signs with care. Not reproduced here: {reasons}."
        )
    grader = (run.read_summary() or {}).get("grader")
    if change.otherwise or grader not in (None, parser.GRADER_VERSION):
        found.append(
            f"The run was graded by version {grader or 'unknown'} and is graded again by {parser.GRADER_VERSION}; "
            f"{change.otherwise:,} samples are judged otherwise."
        )
    if config["reward"].get("shuffled"):
        found.append("reward.shuffled=true: the recorded rewards were permuted within each batch, and these are not.")
    if rejected := len(samples.read_rejected(run)):
        found.append(f"{rejected:,} samples that no step consumed are not regraded.")
    return found


def reasons(failures: Counter[str]) -> list[str]:
    """The causes of failed reward computations, the commonest first."""
    if not failures:
        return []
    named = "".join(f"\n  {count:,} x {text.shortened(reason, 200)}" for reason, count in failures.most_common(SHOWN))
    return [
        f"{failures.total():,} samples got no reward. Training would reject their groups, so no sign is counted:{named}"
    ]


def show_largest(largest: list[Regraded], console: Console) -> None:
    if not largest:
        console.print("\nNo advantage changes.")
        return
    console.print("\nThe samples whose advantages change most:", style="bold")
    for one in largest:
        console.print(
            f"\nstep {one.step}, sample {one.row['id']}, group {one.row['group']}, {verdict(one.row)}: "
            f"reward {one.row['reward']:g} -> {one.reward:g}, "
            f"advantage {signed(one.advantage_before)} -> {signed(one.advantage)}",
            style="bold",
        )
        for name in ("question", "completion", "reference"):
            text.field(name, one.row.get(name) or "", console)


def as_row(one: Regraded) -> dict:
    """The recorded sample with its new reward and advantage."""
    now = {"reward": one.reward, "parts": one.parts, "advantage": one.advantage, "error": one.error}
    return one.row | {"step": one.step, "regraded": now}
