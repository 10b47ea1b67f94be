"""Every way to share N devices between rollout servers and trainers, each simulated, and the best of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from statistics import fmean

from areal_gsm8k.config.allocation import Allocation
from areal_gsm8k.plan.speed.rates import ScalingError, ServerSpeed, TrainerSpeed
from areal_gsm8k.plan.speed.simulation import Simulation
from areal_gsm8k.plan.speed.workload import Workload

SETTLING, COUNTED = 4, 12  # steps of the simulation: first these and `bound` more, not counted; then the counted ones


@dataclass(frozen=True)
class Speeds:
    """The speeds of one server and one trainer, each of one device."""

    server: ServerSpeed
    trainer: TrainerSpeed
    cores: int | None = None  # that all processes share; None: a GPU each


@dataclass(frozen=True)
class Prediction:
    """One split. Seconds are means over steps."""

    allocation: Allocation
    idle: int  # devices that the split leaves unused
    step: float
    wait: float  # of the step, for rollouts
    staleness: float
    staleness_max: int
    tokens_per_second: float

    @property
    def slower(self) -> str:
        """The side that limits the speed: the trainer, when it waits for less than a tenth of the step."""
        return "trainer" if self.wait < 0.1 * self.step else "rollout"

    def to_dict(self) -> dict:
        return asdict(self) | {"allocation": str(self.allocation), "slower": self.slower}


def predict(speeds: Speeds, workload: Workload, allocation: Allocation, devices: int | None = None) -> Prediction:
    """Simulate one split. `devices`: how many there are, for `idle`."""
    servers, ranks = allocation.rollout.data, allocation.train.data
    simulation = Simulation(
        _wider(speeds.server, allocation), _wider_trainer(speeds.trainer, allocation), workload, servers, ranks,
        speeds.cores,
    )  # fmt: skip
    settling = SETTLING + workload.bound
    steps = simulation.run(settling + COUNTED)[settling:]
    seconds = sum(step.seconds for step in steps)
    used = allocation.rollout.devices + allocation.train.devices
    return Prediction(
        allocation=allocation,
        idle=max(0, (devices or used) - used),
        step=seconds / len(steps),
        wait=fmean(step.wait for step in steps),
        staleness=fmean(step.staleness for step in steps),
        staleness_max=max(step.staleness_max for step in steps),
        tokens_per_second=sum(step.tokens for step in steps) / seconds,
    )


def splits(values: Mapping, allocation: Allocation, devices: int) -> list[Allocation]:
    """Every number of servers, with as many trainers as the rest holds, each side's other dimensions kept.

    `values` is a resolved configuration: batches must be multiples of the data-parallel trainers
    (config/checks.py). Raises ScalingError when there are too few devices for one of each.
    """
    server, trainer = (side.pipeline * side.tensor for side in (allocation.rollout, allocation.train))
    if devices < server + trainer:
        raise ScalingError(
            f"--devices {devices}: one rollout server of {server} and one trainer of {trainer} need "
            f"{server + trainer}. With one GPU both share it: gsm8k plan says how."
        )
    batches = [values[section]["batch_size"] for section in ("train_dataset", "valid_dataset")]
    found = []
    for servers in range(1, (devices - trainer) // server + 1):
        most = (devices - servers * server) // trainer
        ranks = max(ranks for ranks in range(1, most + 1) if not any(batch % ranks for batch in batches))
        sides = replace(allocation.rollout, data=servers), replace(allocation.train, data=ranks)
        found.append(Allocation(*sides))
    return found


def best(predictions: list[Prediction]) -> Prediction:
    """The shortest step; of steps that differ by less than a hundredth, the one with the least staleness."""
    shortest = min(prediction.step for prediction in predictions)
    return min((p for p in predictions if p.step < 1.01 * shortest), key=lambda p: (p.staleness, p.step))


def _wider(server: ServerSpeed, allocation: Allocation) -> ServerSpeed:
    """A server over several devices is taken to be so many times as fast."""
    devices = allocation.rollout.pipeline * allocation.rollout.tensor
    return replace(server, floor=server.floor / devices, each=server.each / devices)


def _wider_trainer(trainer: TrainerSpeed, allocation: Allocation) -> TrainerSpeed:
    return replace(trainer, per_token=trainer.per_token / (allocation.train.pipeline * allocation.train.tensor))
