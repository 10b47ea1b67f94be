"""Compares the GPUs that exist with those an allocation needs, and finds the nearest allocation that would run.

Pure arithmetic but for `for_areal`, which asks the driver. It runs with the configuration, before anything is started.
"""

import os
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from areal_gsm8k.config.allocation import Allocation, Side
from areal_gsm8k.config.schema import ConfigError
from areal_gsm8k.machine import nvidia


def for_areal() -> dict[str, str]:
    """The environment of AReaL's local launcher: our GPUs by number, our Python's programs first; {} without GPUs.

    The launcher gives every process its share of CUDA_VISIBLE_DEVICES, and AReaL's SGLang server computes with the
    names in that variable, so a GPU id would end the server; the launcher starts `python3` and `torchrun` by these
    names. Raises ConfigError for a part of a GPU.
    """
    variable, names = os.environ.get("CUDA_VISIBLE_DEVICES"), nvidia.ours()
    if not names:
        return {}
    if parts := [name for name in names if not name.isdigit()]:
        raise ConfigError(
            f"CUDA_VISIBLE_DEVICES={parts[0]}: AReaL takes GPUs by number, and a part of one (MIG) has none. Start in "
            "a container that shows this part only, without the variable."
        )
    programs = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    # The numbers are nvidia-smi's, in the order of the bus; CUDA by default counts the fastest GPU first.
    order = {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"} if variable and "GPU-" in variable else {}
    return order | {"CUDA_VISIBLE_DEVICES": ",".join(names), "PATH": programs}


def check(alloc: Allocation, gpus: int, weight_update_mode: str, where: str = "this machine has") -> None:
    """Raise ConfigError, with what would run, when `alloc` needs more than `gpus` GPUs (at least 1).

    AReaL's local launcher (areal/infra/launcher/local.py) hands GPUs out round robin and starts again at the first: on
    one GPU a server and a trainer share it; on more, an overlap would leave some GPUs idle and others out of memory.
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


def takes_turns(values: Mapping) -> bool:
    """Whether this is AReaL's colocation: server and trainer use the GPU in turns (training/colocation.py)."""
    pairs = (("rollout", "actor"), ("actor", "rollout"))
    strategies = [((values.get(side) or {}).get("scheduling_strategy") or {}, target) for side, target in pairs]
    return any(s.get("type") == "colocation" and s.get("target") == target for s, target in strategies)


def check_turns(values: dict, alloc: Allocation) -> None:
    """Raise ConfigError when server and trainer are to take turns on a GPU and a setting for that is missing.

    training/colocation.py says which settings are needed, and why.
    """
    if not takes_turns(values):
        return
    needed = {
        "allocation_mode": (str(alloc), "sglang:d1p1t1+fsdp:d1p1t1"),
        "scheduler.type": (values["scheduler"]["type"], None),
        "enable_offload": (values.get("enable_offload"), True),
        "sglang.enable_memory_saver": (values["sglang"].get("enable_memory_saver"), True),
        "actor.weight_update_mode": (values["actor"]["weight_update_mode"], "disk"),
        "actor.kl_ctl": (values["actor"].get("kl_ctl") or 0.0, 0.0),  # a reference model would be paused with the actor
    }
    wrong = [f"{key}={want} (is {has})" for key, (has, want) in needed.items() if has != want]
    if wrong:
        raise ConfigError(
            "rollout.scheduling_strategy.type=colocation: server and trainer take turns on one GPU, each giving its "
            f"memory back. That needs {', '.join(wrong)}. Without colocation they share it, each keeping its part."
        )


def nearest(alloc: Allocation, gpus: int) -> Allocation:
    """The allocation nearest to `alloc` that `gpus` GPUs can run; no dimension is larger than in `alloc`.

    Tensor and pipeline sizes are kept where possible. Data sizes shrink as evenly as possible, which keeps the ratio of
    servers to trainers; among equally near ones, the allocation with most GPUs wins. All sizes but the number of
    servers are divisors of the sizes in `alloc`, so they still divide batches, heads and layers.
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
