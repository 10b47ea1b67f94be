"""`gsm8k replay`: generate a recorded sample again with its model, or compute another reward for a whole run.

gsm8k replay runs/tiny-grpo/20261121_101500 --sample 460
gsm8k replay runs/tiny-grpo/20261121_101500 --reward format=0.5 --steps 1-20
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from areal_gsm8k.cli import text
from areal_gsm8k.cli.samples import facts
from areal_gsm8k.runs import samples as samples_of
from areal_gsm8k.runs.samples import SamplesError

if TYPE_CHECKING:
    from rich.console import Console

    from areal_gsm8k.replay.replay import Departure, Replayed

EngineName = StrEnum("EngineName", {name: name for name in ("auto", "embedded", "hf")})
BEFORE = 40  # characters shown before a departure
ROUNDING = 1e-4  # a draw that misses a token's share by less may miss it by float rounding


def replay(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder.")],
    sample: Annotated[int | None, typer.Option(help="Generate this sample again; gsm8k samples shows them.")] = None,
    step: Annotated[int | None, typer.Option(min=1, help="The sample's step, or the one step to regrade.")] = None,
    engine: Annotated[
        EngineName, typer.Option(help="auto: embedded, and hf for a model that it cannot run.")
    ] = EngineName.auto,
    reward: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=VALUE",
            help="Regrade all samples, with this laid over the run's reward: accuracy=1, format=0.5, "
            "custom=module:function. May be repeated.",
        ),
    ] = None,
    steps: Annotated[str | None, typer.Option(metavar="A-B", help="Regrade these steps only.")] = None,
    out: Annotated[Path | None, typer.Option(help="Also write every regraded sample here, as JSON lines.")] = None,
) -> None:
    """Generate a recorded sample again by its seed and its policy version, and show where it departs.

    With --reward: what another reward would have paid a run's samples, and how their advantages change. Nothing is
    trained, and nothing is written into the run.
    """
    console = text.console()
    with text.errors_told(ValueError, RuntimeError, OSError):
        if (sample is None) == (not reward):
            raise SamplesError("give --sample, to generate one again, or --reward, to regrade: one of the two")
        if reward:
            from areal_gsm8k.cli import regrade

            regrade.regrade(run, reward, step, steps, out, console)
        else:
            if steps or out:
                raise SamplesError("--steps and --out go with --reward")
            regenerate(run, step, sample, str(engine), console)


def regenerate(folder: Path, step: int | None, sample: int, engine: str, console: Console) -> None:
    """Generate one sample again and print it beside the recorded one. Raises ValueError or OSError."""
    run = samples_of.open_run(folder)
    config = samples_of.configuration(run)
    at, row = samples_of.find(run, sample, step)
    from areal_gsm8k.replay.replay import replay

    show(at, replay(run, config, row, engine), console)


def show(step: int, replayed: Replayed, console: Console) -> None:
    row = replayed.row
    console.print(f"step {step}, {', '.join(facts(row))}", style="bold")
    policy = replayed.policy
    console.print(f"again by policy version {policy.version}: {policy.folder}")
    console.print(f"engine {replayed.engine}, seed {replayed.seed}\n")
    text.field("question", row["question"], console)
    text.field("recorded", row["completion"], console)
    text.field("again", replayed.text, console)
    console.print()
    for reason in replayed.reasons:
        console.print(text.printable(f"A departure is to be expected: {reason}."), style="yellow")
    if replayed.departure:
        show_departure(replayed.departure, bool(replayed.reasons), console)
    elif replayed.same:
        count = len(replayed.regenerated)
        console.print(f"The same, token for token ({count} tokens)." if replayed.recorded else "The same text.")
    else:
        console.print("Not the same text; its record does not hold the tokens, so they cannot be compared.")


def show_departure(departure: Departure, expected: bool, console: Console) -> None:
    """Print the likely tokens at the place where two completions part; the tokens of both are marked."""
    before = departure.before if len(departure.before) <= BEFORE else "..." + departure.before[-BEFORE:]
    console.print(f"The first {departure.index} tokens are the same. After {before!r} the model gives:")
    both = [token for token in (departure.recorded, departure.regenerated) if token]
    shown = {token.id: token for token in [*departure.alternatives, *both]}
    for token in sorted(shown.values(), key=lambda token: -token.probability):
        marks = {"recorded": departure.recorded, "again": departure.regenerated}
        named = ", ".join(name for name, marked in marks.items() if token == marked)
        console.print(f"  {token.probability:9.4%}  {token.text!r:<16} {named}".rstrip())
    if expected or departure.missed_by is None:
        return
    missed = f"The draw missed the recorded token's share by {departure.missed_by:.1e}: "
    if departure.missed_by < ROUNDING:
        console.print(missed + "float rounding.")
    else:
        console.print(
            missed + "more than rounding. This is not the model, tokenizer or code that drew it.", style="red"
        )
