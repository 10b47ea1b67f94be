"""Speeds and completion lengths from a run's own files: metrics.jsonl, samples/ and config.yaml."""

from __future__ import annotations

import random
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

from areal_gsm8k.config import allocation
from areal_gsm8k.config.allocation import Allocation
from areal_gsm8k.plan.speed.rates import ANY, ScalingError, ServerSpeed, TrainerSpeed
from areal_gsm8k.plan.speed.simulation import Simulation
from areal_gsm8k.plan.speed.workload import Workload
from areal_gsm8k.runs import samples
from areal_gsm8k.runs.files import read_lines
from areal_gsm8k.runs.run import Run

WARM_UP = 3  # steps not used: the first ones warm caches up
LEAST = 8  # steps that must remain
NOISE = 0.05  # usual error of a step's time; steps that are further off count less
TRAINING = ("time/logprobs", "time/reference", "time/advantages", "time/train")
OUTSIDE = ("time/eval", "time/save", "time/recovery")  # not part of a step's time here


@dataclass(frozen=True)
class Recorded:
    server: ServerSpeed  # of one device
    trainer: TrainerSpeed  # of one device
    groups: list[list[int]]  # tokens of each completion, by group
    source: str


def read(folder: Path, counted: Collection[int] | None = None) -> Recorded:
    """Speeds and lengths from a finished synchronous run: from the steps in `counted`, or from all after the first.

    Raises ScalingError naming the file and what to do.
    """
    try:
        run = samples.open_run(folder)
        values = samples.configuration(run)
    except samples.SamplesError as error:
        raise ScalingError(f"--from {error}") from None
    bound, sides = values["rollout"]["max_head_offpolicyness"], allocation.parse(values["allocation_mode"])
    if bound:
        raise ScalingError(
            f"--from {folder}: rollouts ran ahead there (rollout.max_head_offpolicyness={bound}), so the trainer's "
            "wait does not tell how fast they were. Give a run of 15 steps with rollout.max_head_offpolicyness=0."
        )
    rows = [row for row in run.read_metrics() if row["step"] > WARM_UP and "time/rollout" in row]
    rows = [row for row in rows if counted is None or row["step"] in counted]
    if len(rows) < LEAST:
        raise ScalingError(
            f"--from {folder}: {run.metrics} holds {len(rows)} steps after the first {WARM_UP}; give a run of at least "
            f"{WARM_UP + LEAST}."
        )
    steps = [_groups(run, row["step"]) for row in rows]
    server = _server(rows, steps, values, sides)
    groups = [group for groups in steps for group in groups]
    return Recorded(server, _trainer(rows, steps, sides), groups, str(folder))


def resampled(groups: list[list[int]], size: int, seed: int = 1) -> list[list[int]]:
    """The recorded groups in a random order, each with `size` completions drawn from its own."""
    source = random.Random(seed)
    return [source.choices(group, k=size) for group in source.sample(groups, len(groups))]


def _server(rows: list[dict], steps: list[list[list[int]]], values: Mapping, sides: Allocation) -> ServerSpeed:
    """Seconds of the wait = floor x decoding steps + each x tokens of a server, over the run's steps.

    A batch's lengths determine its number of decoding steps: the number is the time that the simulation gives for a
    server that takes a second for each step.
    """
    embedded = sides.rollout.backend == "embedded"
    rows_at_once = values["embedded"]["max_running_requests"] if embedded else ANY
    counting = ServerSpeed(floor=1.0, each=0.0, rows=rows_at_once)
    decoding = []
    for groups in steps:
        workload = replace(Workload.of(values, groups), batch=len(groups), bound=0)
        played = Simulation(counting, TrainerSpeed(0.0), workload, sides.rollout.data, sides.train.data)
        decoding.append(played.run(1)[0].wait)
    tokens = [_tokens(groups) / sides.rollout.data for groups in steps]
    floor, each = _fit([row["time/rollout"] for row in rows], decoding, tokens)
    devices = sides.rollout.pipeline * sides.rollout.tensor
    return ServerSpeed(floor * devices, each * devices, rows_at_once)


def _trainer(rows: list[dict], steps: list[list[list[int]]], sides: Allocation) -> TrainerSpeed:
    seconds = [sum(row.get(name) or 0.0 for name in TRAINING) for row in rows]
    per_token = (
        median(each / _tokens(groups) for each, groups in zip(seconds, steps, strict=True)) * sides.train.devices
    )
    update = median(row.get("time/update_weights") or 0.0 for row in rows)
    parts = (*TRAINING, *OUTSIDE, "time/rollout", "time/update_weights")
    record = median(row["time/step"] - sum(row.get(name) or 0.0 for name in parts) for row in rows)
    return TrainerSpeed(per_token, update, max(0.0, record))


def _fit(seconds: list[float], *causes: list[float]) -> tuple[float, ...]:
    """The seconds that a unit of each cause adds, never below 0: least squares in which outliers count less."""
    import numpy
    from scipy.optimize import least_squares

    whole, usual = median(seconds), numpy.array([median(cause) for cause in causes])
    matrix, target = numpy.array(causes).T / usual, numpy.array(seconds) / whole
    start = numpy.full(len(causes), 1 / len(causes))  # of the usual step's time, each an equal share
    found = least_squares(
        lambda shares: matrix @ shares - target, start, bounds=(0, numpy.inf), loss="soft_l1", f_scale=NOISE
    )
    return tuple((found.x * whole / usual).tolist())


def _tokens(groups: list[list[int]]) -> int:
    return sum(map(sum, groups))


def _groups(run: Run, step: int) -> list[list[int]]:
    """Completion lengths of a step, by group."""
    rows, _ = read_lines(run.samples(step))
    if not rows:
        raise ScalingError(f"--from {run.root}: {run.samples(step)} is missing, which holds the completions' lengths.")
    return [[row["completion_tokens"] for row in group] for group in samples.groups(rows).values()]
