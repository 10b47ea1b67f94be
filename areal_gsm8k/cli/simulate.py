"""`gsm8k plan --simulate`: the best split of N devices between rollout servers and trainers (docs/scaling.md).

gsm8k plan --simulate --devices 8 --config configs/scales/8gpus.yaml \\
    --rollout-rate 1:95,64:1900 --trainer-rate 8000 --completion-tokens 250 --completion-spread 120 --update-seconds 3
gsm8k plan --simulate --devices 8 --config configs/scales/8gpus.yaml --from runs/gsm8k-grpo/synchronous
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from areal_gsm8k.config.compose import Plan
    from areal_gsm8k.plan.speed.splits import Prediction, Speeds
    from areal_gsm8k.plan.speed.workload import Lengths

GROUPS = 1024  # drawn, and used in turn
PANEL = {"rich_help_panel": "With --simulate"}

Simulate = Annotated[bool, typer.Option("--simulate", help="Step time on every split of the devices, best marked.")]
Devices = Annotated[
    int | None, typer.Option(metavar="N", help="Devices to split; without it, what the allocation asks for.", **PANEL)
]
From = Annotated[
    Path | None, typer.Option("--from", metavar="RUN", help="Speeds and lengths of this synchronous run.", **PANEL)
]
RolloutRate = Annotated[
    str | None,
    typer.Option(metavar="RATE", help="Completion tokens/s of one device, or requests:tokens/s,...", **PANEL),
]
TrainerRate = Annotated[
    float | None, typer.Option(metavar="RATE", help="Completion tokens/s that one device trains on.", **PANEL)
]
CompletionTokens = Annotated[float | None, typer.Option(metavar="MEAN", help="Mean tokens of a completion.", **PANEL)]
CompletionSpread = Annotated[
    float | None, typer.Option(metavar="SD", help="Their standard deviation; without it, half the mean.", **PANEL)
]
UpdateSeconds = Annotated[
    float | None, typer.Option(metavar="S", help="Seconds of a weight update; without it, 0 or the run's.", **PANEL)
]
HandlingSeconds = Annotated[
    float | None, typer.Option(metavar="S", help="TrainerSpeed's CPU seconds for a completion; without it, 0.", **PANEL)
]
Cores = Annotated[
    int | None, typer.Option(metavar="N", help="CPU cores that all processes share; without it, a GPU each.", **PANEL)
]


@dataclass(frozen=True)
class Given:
    """The options above, as typed."""

    devices: int | None
    run: Path | None
    rollout_rate: str | None
    trainer_rate: float | None
    completion_tokens: float | None
    completion_spread: float | None
    update_seconds: float | None
    handling_seconds: float | None
    cores: int | None

    def refuse(self) -> None:
        """Raise ValueError when any of these options was typed: they mean nothing without --simulate."""
        names = {"run": "from"}
        for field in fields(self):
            if getattr(self, field.name) is not None:
                raise ValueError(f"--{names.get(field.name, field.name.replace('_', '-'))} needs --simulate beside it.")


def simulate(console: Console, files: list[Path], overrides: list[str], given: Given, as_json: bool) -> None:
    """Print the table. Raises ConfigError and ScalingError."""
    from areal_gsm8k.config.compose import make_plan
    from areal_gsm8k.plan.speed import splits
    from areal_gsm8k.plan.speed.workload import Workload

    plan = make_plan(files, overrides, 1 << 20)
    devices = given.devices or plan.allocation.rollout.devices + plan.allocation.train.devices
    speeds, lengths, source = measured(plan, given)
    workload = Workload.of(plan.values, lengths)
    allocations = splits.splits(plan.values, plan.allocation, devices)
    predictions = [splits.predict(speeds, workload, allocation, devices) for allocation in allocations]
    if as_json:
        best = str(splits.best(predictions).allocation)
        console.print_json(data={"splits": [prediction.to_dict() for prediction in predictions], "best": best})
        return
    console.print(
        f"{plan.get('train_dataset.batch_size')} prompts x {plan.get('gconfig.n_samples')} completions a step, "
        f"rollouts at most {workload.bound} versions behind, {workload.concurrent} prompts under way; {source}",
    )
    show(console, predictions)
    if speeds.cores:
        console.print(f"All processes share {speeds.cores} CPU cores.")


def measured(plan: Plan, given: Given) -> tuple[Speeds, Lengths, str]:
    """Speeds and lengths, from the run and then from the options; and a line with their source."""
    from areal_gsm8k.plan.speed import recorded
    from areal_gsm8k.plan.speed.rates import ANY, ScalingError, TrainerSpeed, fit_server, read_points
    from areal_gsm8k.plan.speed.splits import Speeds
    from areal_gsm8k.plan.speed.workload import drawn

    run = recorded.read(given.run) if given.run else None
    wanted = {
        "--rollout-rate": given.rollout_rate,
        "--trainer-rate": given.trainer_rate,
        "--completion-tokens": given.completion_tokens,
    }
    if not run and (missing := [name for name, value in wanted.items() if value is None]):
        raise ScalingError(
            f"--simulate needs {', '.join(missing)}, or --from with a finished run that had "
            "rollout.max_head_offpolicyness=0: docs/scaling.md says how to measure them."
        )
    for name in ("trainer_rate", "update_seconds", "handling_seconds", "devices", "cores"):
        value, least = getattr(given, name), 0 if name.endswith("seconds") else 1e-9
        if value is not None and not least <= value < float("inf"):
            raise ScalingError(f"--{name.replace('_', '-')} {value:g}: a number above 0.")
    server = run.server if run else None
    if given.rollout_rate:
        server = fit_server(read_points(given.rollout_rate))
    rows = plan.get("embedded.max_running_requests") if plan.allocation.rollout.backend == "embedded" else ANY
    trainer = run.trainer if run else TrainerSpeed(1 / given.trainer_rate)
    if given.trainer_rate:
        trainer = replace(trainer, per_token=1 / given.trainer_rate)
    if given.update_seconds is not None:
        trainer = replace(trainer, update=given.update_seconds)
    trainer = replace(trainer, handling=given.handling_seconds or 0.0)
    samples = plan.get("gconfig.n_samples")
    if given.completion_tokens is not None:
        spread = given.completion_tokens / 2 if given.completion_spread is None else given.completion_spread
        lengths = drawn(given.completion_tokens, spread, plan.get("gconfig.max_new_tokens"), samples, GROUPS)
    else:
        lengths = recorded.resampled(run.groups, samples)
    source = f"speeds of {run.source}" if run else "speeds as given"
    return Speeds(replace(server, rows=rows), trainer, given.cores), lengths, source


def show(console: Console, predictions: list[Prediction]) -> None:
    from rich.table import Table

    from areal_gsm8k.plan.speed.splits import best

    chosen = best(predictions)
    table = Table("split", "step s", "wait s", "tokens/s", "staleness", "most", "slower", "")
    for column in table.columns[1:6]:
        column.justify = "right"
    for found in predictions:
        sides = found.allocation
        notes = ["best"] * (found is chosen) + [f"{found.idle} idle"] * bool(found.idle)
        table.add_row(
            f"{sides.rollout.data} + {sides.train.data}", f"{found.step:.2f}", f"{found.wait:.2f}",
            f"{found.tokens_per_second:,.0f}", f"{found.staleness:.2f}", f"{found.staleness_max}", found.slower,
            ", ".join(notes), style="bold" if found is chosen else None,
        )  # fmt: skip
    console.print(table)
    console.print(
        "split: servers + trainers. wait: of the trainer, for rollouts. slower: the side to give more devices"
    )
    console.print(f"allocation_mode={chosen.allocation}", markup=False)
