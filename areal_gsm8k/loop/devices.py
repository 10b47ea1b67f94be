"""GPUs there are against GPUs an allocation needs, and the nearest allocation that would run on those there are.

Pure arithmetic but for `count`, which asks the driver. Read with the configuration, before anything is started.
"""

import os
import shutil
import subprocess
from dataclasses import replace

from areal_gsm8k.loop.allocation import Allocation, Side
from areal_gsm8k.loop.schema import ConfigError


def count() -> int:
    """NVIDIA GPUs this process may use (a driver tool without a card counts none)."""
    if not shutil.which("nvidia-smi"):
        return 0
    try:
        listing = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return 0
    found = sum(line.startswith("GPU ") for line in listing.stdout.splitlines())
    return 0 if listing.returncode else visible(found, os.environ.get("CUDA_VISIBLE_DEVICES"))


def visible(found: int, variable: str | None) -> int:
    """How many of `found` GPUs CUDA_VISIBLE_DEVICES leaves: indices or ids, up to the first that does not exist."""
    if variable is None:
        return found
    left = 0
    for name in variable.split(","):
        name = name.strip()
        if not name or name.lstrip("-").isdigit() and not 0 <= int(name) < found:
            break
        left += 1
    return min(left, found)


def check(alloc: Allocation, gpus: int, weight_update_mode: str, where: str = "this machine has") -> None:
    """Raise ConfigError, with what would run, when `alloc` needs more than `gpus` GPUs (at least 1).

    AReaL's local launcher (areal/infra/launcher/local.py) hands GPUs out round robin and starts again at the first: on
    one GPU a server and a trainer share it, on more any overlap would leave others idle and these out of memory.
    """
    needed = alloc.rollout.devices + alloc.train.devices
    if needed <= gpus:
        return
    suggested = nearest(alloc, gpus)
    if suggested != alloc:
        mode = "" if gpus > 1 or weight_update_mode == "disk" else " with actor.weight_update_mode=disk"
        raise ConfigError(
            f"allocation_mode={alloc} needs {needed} GPUs, {where} {gpus}; nearest that would run: {suggested}{mode}"
        )
    if weight_update_mode != "disk":
        raise ConfigError(
            f"actor.weight_update_mode={weight_update_mode}: server and trainer share one GPU, and NCCL refuses two "
            "ranks on one device; set it to disk."
        )


def nearest(alloc: Allocation, gpus: int) -> Allocation:
    """The allocation nearest to `alloc` that `gpus` GPUs can run; no dimension is larger than in `alloc`.

    Tensor and pipeline sizes are kept where possible. Data sizes shrink as evenly as possible, which keeps the ratio of
    servers to trainers; of equals the one that uses most GPUs. All sizes but the servers' number are divisors of those
    asked for: what divided batches, heads and layers still does.
    """
    if gpus == 1:
        return Allocation(_one(alloc.rollout), _one(alloc.train))
    rollouts = _smaller(alloc.rollout, range(1, min(alloc.rollout.data, gpus - 1) + 1))
    trains = _smaller(alloc.train, _divisors(alloc.train.data))
    fitting = (Allocation(r, t) for r in rollouts for t in trains if r.devices + t.devices <= gpus)
    return min(fitting, key=lambda smaller: _distance(alloc, smaller))


def _one(side: Side) -> Side:
    return replace(side, data=1, pipeline=1, tensor=1)


def _smaller(side: Side, data_sizes) -> list[Side]:
    return [
        replace(side, data=d, pipeline=p, tensor=t)
        for d in data_sizes
        for p in _divisors(side.pipeline)
        for t in _divisors(side.tensor)
    ]


def _divisors(number: int) -> list[int]:
    return [d for d in range(1, number + 1) if number % d == 0]


def _distance(asked: Allocation, smaller: Allocation) -> tuple[float, ...]:
    pairs = [(asked.rollout, smaller.rollout), (asked.train, smaller.train)]
    models = 1.0
    for old, new in pairs:
        models *= old.pipeline * old.tensor / (new.pipeline * new.tensor)
    data = max(old.data / new.data for old, new in pairs)
    return models, data, -sum(new.devices for _, new in pairs)
