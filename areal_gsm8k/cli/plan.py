"""`gsm8k plan`: does this run fit into memory, and if not, what to change? Nothing is started or downloaded.

gsm8k plan --gpu 24
gsm8k plan --config configs/models/qwen2.5-1.5b.yaml --gpus 2x24 --fit --out my-gpus.yaml
gsm8k plan actor.path=meta-llama/Llama-3.1-8B-Instruct allocation_mode=sglang.d4+d4 --gpus 8x80 --json
gsm8k plan --simulate ...     (how fast instead of how large: cli/simulate.py)
"""

from __future__ import annotations

import shlex
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from areal_gsm8k.cli import simulate as scaling
from areal_gsm8k.cli import text
from areal_gsm8k.machine.nvidia import GIB, MIB

if TYPE_CHECKING:
    from rich.console import Console

    from areal_gsm8k.config.compose import Plan
    from areal_gsm8k.plan.memory.fit import Fit
    from areal_gsm8k.plan.memory.plan import MemoryPlan, PlannedCard

BAR = 60  # characters
FILLS = {  # character of the bar: the parts it stands for
    "█": ("weights", "gradients", "optimizer", "reference"),
    "▓": ("gathered", "activations", "logits", "working"),
    "▒": ("keys and values",),
    "░": ("CUDA context", "margin", "Python and libraries"),
}
PARTS = [name for names in FILLS.values() for name in names]
LEGEND = "█ weights, gradients, optimizer   ▓ comes and goes   ▒ keys and values   ░ context, margin   · free"


def plan(
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Settings, as for gsm8k train.")
    ] = None,
    config: Annotated[list[Path] | None, typer.Option(help="Overlay of train_grpo.yaml; may be repeated.")] = None,
    gpu: Annotated[str | None, typer.Option(metavar="GIB", help="Plan for one card of so many GiB.")] = None,
    gpus: Annotated[str | None, typer.Option(metavar="NxGIB", help="Plan for several cards, e.g. 2x24.")] = None,
    fit: Annotated[bool, typer.Option("--fit", help="Find the changes that make it fit, as an overlay.")] = False,
    out: Annotated[Path | None, typer.Option(help="Write that overlay here; without it, it is printed.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the plan as JSON.")] = False,
    simulate: scaling.Simulate = False,
    devices: scaling.Devices = None,
    run: scaling.From = None,
    rollout_rate: scaling.RolloutRate = None,
    trainer_rate: scaling.TrainerRate = None,
    completion_tokens: scaling.CompletionTokens = None,
    completion_spread: scaling.CompletionSpread = None,
    update_seconds: scaling.UpdateSeconds = None,
    handling_seconds: scaling.HandlingSeconds = None,
    cores: scaling.Cores = None,
) -> None:
    """Memory of every process of a run, before it is started. Exit code 1 when it does not fit, 2 for errors.

    Without --gpu or --gpus: this machine's cards, and without any the smallest that would do. Without --config: what
    `train` takes on such cards by itself; the base alone: --config train_grpo.yaml.
    """
    from rich.console import Console

    from areal_gsm8k.config.schema import ConfigError
    from areal_gsm8k.plan.memory.model_shape import ShapeError

    console = Console(soft_wrap=True, highlight=False)
    speeds = (rollout_rate, trainer_rate, completion_tokens, completion_spread, update_seconds, handling_seconds)
    given = scaling.Given(devices, run, *speeds, cores)
    with text.errors_told(ConfigError, ShapeError, ValueError, OSError, code=2, stderr=True):
        if simulate:
            scaling.simulate(console, config or [], overrides or [], given, as_json)
            return
        given.refuse()
        asked = PlanRequest(config or [], overrides or [], gpu, gpus)
        found = asked.fit() if fit or not asked.planned.fits else None
        shown = found.plan if fit and found else asked.planned
        overlay = overlay_of(found, asked) if fit and shown.fits else ""
        if out and overlay:
            _write(out, overlay)
    if as_json:
        changes = [{"settings": change.settings, "costs": change.why} for change in found.changes] if found else []
        console.print_json(data=shown.to_dict() | {"changes": changes, "model_config": asked.source})
        raise typer.Exit(int(not shown.fits))
    _describe(console, shown, asked)
    if found:
        _advise(console, found, asked, fit)
    if overlay:
        console.print(f"\n{out} written: {asked.command(out)}" if out else f"\n{overlay}", markup=False)
    raise typer.Exit(int(not shown.fits))


class PlanRequest:
    """The request: a resolved configuration, a model, the cards. Raises ConfigError, ShapeError, ValueError."""

    def __init__(self, files: list[Path], overrides: list[str], gpu: str | None, gpus: str | None):
        from areal_gsm8k.config import defaults
        from areal_gsm8k.machine import cards
        from areal_gsm8k.machine.facts import Machine
        from areal_gsm8k.plan.memory import model_config
        from areal_gsm8k.plan.memory.fit import smallest
        from areal_gsm8k.plan.memory.plan import of_all_machines, plan_for

        if gpu and gpus:
            raise ValueError("--gpu and --gpus: give one of them.")
        self.gpus = cards.read(gpu or gpus, "--gpu" if gpu else "--gpus") if gpu or gpus else cards.here()
        self.files, self.overrides = files or defaults.suited([gpu.gib for gpu in self.gpus]), overrides
        self.count = len(self.gpus) or 1 << 20  # no card here and none given: as many as the allocation needs
        here = Machine()
        self.memory = 0 if gpu or gpus else min(here.memory, here.memory_limit or here.memory)
        run = self.resolved([])
        self.values, self.path = run.values, "tiny" if run.start_model else run.values["actor"]["path"]
        self.config, self.source = model_config.of_tiny() if run.start_model else model_config.read(self.path)
        self.assumed = not self.gpus and run.allocation.rollout.backend != "embedded"
        if self.assumed:
            self.gpus, self.memory = smallest(self.values, self.config), 0
        elif run.allocation.rollout.backend != "embedded":
            self.gpus = of_all_machines(self.gpus, self.values)
        self.planned = plan_for(self.values, self.config, self.gpus, self.memory)

    def command(self, overlay: Path) -> str:
        """The command that trains with this overlay on top."""
        files = [word for file in [*self.files, overlay] for word in ("--config", str(file))]
        return shlex.join(["./run", "train", *files, *self.overrides])

    def resolved(self, more: list[str]) -> Plan:
        from areal_gsm8k.config.compose import make_plan

        return make_plan(self.files, [*self.overrides, *more], self.count)

    def resolve(self, settings: dict) -> dict | None:
        """The configuration with these settings laid over it; None when the result cannot run."""
        from areal_gsm8k.config.schema import ConfigError

        try:
            return self.resolved([f"{key}={str(value).lower()}" for key, value in settings.items()]).values
        except ConfigError:
            return None

    def fit(self) -> Fit:
        from areal_gsm8k.plan.memory.fit import fit

        return fit(self.values, self.config, self.gpus, self.resolve, self.memory)


def _write(out: Path, overlay: str) -> None:
    from areal_gsm8k.runs.files import write_atomically

    try:
        write_atomically(out, overlay)
    except OSError as error:
        raise ValueError(f"--out {out} cannot be written ({error.strerror}): give the name of a file.") from None


def overlay_of(found: Fit, asked: PlanRequest) -> str:
    """The changes as an overlay of train_grpo.yaml."""
    from omegaconf import OmegaConf

    cards = f"{len(asked.gpus)} x {asked.gpus[0].gib:g} GiB" if asked.gpus else "this machine's memory"
    nested = OmegaConf.create()
    for key, value in found.settings.items():
        OmegaConf.update(nested, key, value)
    head = f"# What {asked.path} needs to fit {cards}, by gsm8k plan --fit"
    return f"{head}\n{OmegaConf.to_yaml(nested) if found.changes else '{}  # it fits as it is'}"


def _describe(console: Console, shown: MemoryPlan, asked: PlanRequest) -> None:
    from rich.table import Table

    assumed = ", the smallest usual cards that hold it; no card was found here" if asked.assumed and shown.fits else ""
    console.print(f"{asked.path} ({asked.source}): {shown.shape.parameters / 1e6:,.1f} M parameters", markup=False)
    console.print(f"{shown.allocation}{assumed}", markup=False)
    console.print(" ".join(["train_grpo.yaml", *map(str, asked.files)]), markup=False)
    for cards in (list(same) for _, same in groupby(shown.cards, _as_drawn)):
        card = cards[0]
        name = card.name if len(cards) == 1 else f"{card.name} to {cards[-1].name.removeprefix('GPU ')}"
        console.print(f"\n[bold]{name}[/bold]  {card.total / GIB:.1f} of {card.capacity / GIB:.1f} GiB: {_state(card)}")
        console.print(bar(card), markup=False, style="red" if card.missing else "green")
        unit, one = ("GiB", GIB) if card.total > 4 * GIB else ("MiB", MIB)
        table = Table(unit, *(process.name for process in card.processes))
        for column in table.columns[1:]:
            column.justify = "right"
        there = {part for process in card.processes for part in process.parts}
        for part in (name for name in PARTS if name in there):
            sizes = (process.parts.get(part) for process in card.processes)
            table.add_row(part, *("" if size is None else f"{size / one:,.2f}" for size in sizes))
        table.add_section()
        table.add_row("most at once", *(f"{process.total / one:,.2f}" for process in card.processes))
        console.print(table)
        for process in card.processes:
            console.print(f"{process.name} needs most at: {process.moment}. {process.note}".strip(), markup=False)
        if card.used:
            console.print(f"Other programs hold {card.used / GIB:.1f} GiB of it.")
        _ways(console, card)
    console.print(LEGEND, markup=False, style="dim")
    if shown.host:
        console.print(shown.in_ram, style="red" if shown.host_missing else None)
    for note in shown.notes:
        console.print(note, markup=False)


def _state(card: PlannedCard) -> str:
    if card.missing:
        return f"{card.missing / GIB:.1f} GiB too much"
    return "fits" if card.spare >= GIB else f"[yellow]fits, with only {card.spare / GIB:.1f} GiB to spare[/yellow]"


def _ways(console: Console, card: PlannedCard) -> None:
    """Explain one card for server and trainer: why shared, why in turns."""
    if len({process.name.split()[0] for process in card.processes}) < 2 or not card.name.startswith("GPU"):
        return
    if card.in_turns:
        said = "Server and trainer take turns, each giving its memory back; "
        said += f"together they would need {card.together / GIB:.1f} GiB."
    else:
        said = "Server and trainer share the card, so that completions are generated during updates; in turns (AReaL's "
        said += f"colocation) they would need {card.turns / GIB:.1f} GiB and wait for one another."
    console.print(said)


def _as_drawn(card: PlannedCard):
    return card.capacity, [(process.name.split()[0], process.total) for process in card.processes]


def bar(card: PlannedCard) -> str:
    """The card as a line of BAR characters; a bar crosses it where the card ends, when more is needed."""
    whole, drawn = max(card.total, card.capacity), "░" * round(card.used / max(card.total, card.capacity) * BAR)
    for process in card.processes if not card.in_turns else [max(card.processes, key=lambda process: process.total)]:
        for fill, names in FILLS.items():
            size = sum(max(0, part) for name, part in process.parts.items() if name in names)
            drawn += fill * round(size / whole * BAR)
    if card.total > card.capacity:
        end = round(card.capacity / whole * BAR)
        return f"{drawn[:end]}|{drawn[end:]}"
    return drawn + "·" * (BAR - len(drawn))


def _advise(console: Console, found: Fit, asked: PlanRequest, fitted: bool) -> None:
    from areal_gsm8k.plan.memory.fit import hardware, held_by_others

    if found.changes:
        console.print("\nChanged:" if fitted else "\nTo make it fit, what hurts least first (--fit writes it):")
    for change in found.changes:
        console.print(f"  {change}  ({change.why})", markup=False)
    if found.plan.host and not fitted:
        console.print(f"  {found.plan.in_ram}")
    if held := held_by_others(asked.planned, asked.values, asked.config, asked.gpus, asked.memory):
        console.print(f"Or end what holds {held:.1f} GiB of the cards: without it the run fits as it is.")
    if not found.plan.fits:
        helps = f" Even with these {found.plan.short() / GIB:.1f} GiB are missing." if found.changes else ""
        if asked.gpus:
            helps += f" Hardware: {hardware(asked.values, asked.config, asked.gpus, asked.resolve)}."
        console.print(f"Nothing makes it fit.{helps}", style="red", markup=False)
