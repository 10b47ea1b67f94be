"""Machines for the doctor to examine, simulated by putting their facts in place."""

from dataclasses import replace
from functools import cache
from pathlib import Path

from areal_gsm8k.doctor import advice, examination, requested
from areal_gsm8k.machine.facts import Disk, Machine
from areal_gsm8k.machine.network import WebAnswer
from areal_gsm8k.machine.nvidia import GIB, MIB, Driver, Gpu
from areal_gsm8k.paths import PROJECT

RTX_4090 = Gpu(0, "GPU-a", "NVIDIA GeForce RTX 4090", (8, 9), 24_564 * MIB, 400 * MIB)
H100 = Gpu(0, "GPU-h", "NVIDIA H100 80GB HBM3", (9, 0), 81_559 * MIB, 4 * MIB)
RTX_5090 = Gpu(0, "GPU-b", "NVIDIA GeForce RTX 5090", (12, 0), 32_607 * MIB, 400 * MIB)
T4 = Gpu(0, "GPU-t", "Tesla T4", (7, 5), 15_360 * MIB, 3 * MIB)
DRIVER = Driver(there=True, version="570.86.15", cuda=(12, 8), gpus=(RTX_4090,))
CPU_SET = Machine().pins("cpu")
GPU_SET = Machine().pins("gpu")
HEALTHY = {
    "system": "Linux", "architecture": "x86_64", "wsl": 0, "python": (3, 11, 7), "cores": 16, "cpu_flags": {"avx2"},
    "memory": 64 * GIB, "memory_free": 60 * GIB, "memory_limit": None, "wslconfig": None, "shared_memory": 32 * GIB,
    "open_files": 65_536, "training": [], "zombies": 0, "now": 1.8e9, "newest_file": 1.7e9,
    "nvidia_device": True, "torch_sees": {"count": 1, "archs": ["sm_75", "sm_80", "sm_86", "sm_90", "sm_120"]},
    "nvcc": "/usr/local/cuda/bin/nvcc", "compiler": "/usr/bin/g++", "python_headers": True, "torch_cuda": (12, 8),
    "nvcc_version": (12, 8), "cuda_headers": True, "has_library": lambda name: True,
    "project": PROJECT, "hub_cache": Path("/home/u/.cache/huggingface/hub"), "hub_url": "https://huggingface.co",
    "answers": {"hub": WebAnswer(skew=0.4), "PyPI": WebAnswer(skew=0.2)}, "loopback_error": "", "free_ports": 1.0,
    "host_address": "192.168.1.5", "address_is_ours": True, "proxied": False, "offline": [], "hub_token": None,
    "disk": lambda folder: Disk(folder, "ext4", 500 * GIB, True), "is_cached": lambda kind, name: True,
}  # fmt: skip


def a_gpu_machine(**facts) -> Machine:
    return simulated(HEALTHY | {"driver": DRIVER, "installed": GPU_SET} | facts)


def a_laptop(**facts) -> Machine:
    without = {"driver": Driver(), "nvidia_device": False, "torch_cuda": None, "installed": CPU_SET, "memory": 8 * GIB}
    return simulated(HEALTHY | without | {"memory_free": 6 * GIB} | facts)


def simulated(facts: dict) -> Machine:
    machine = Machine(environment=facts.pop("environment", {}))
    vars(machine).update(facts)
    return machine


def with_gpu(gpu: Gpu, **changes) -> dict:
    return {"driver": replace(DRIVER, gpus=(gpu,), **changes)}


@cache
def composed(
    overrides: tuple[str, ...], gpus: int, recipe: tuple[Path, ...], needed: tuple[str, ...]
) -> requested.Requested:
    return requested.read([], list(overrides), gpus, list(recipe), needed)


def asks(machine: Machine, overrides: tuple[str, ...]) -> requested.Requested:
    own, needed = advice.recipe(machine), advice.needed(machine)
    return composed(overrides, len(machine.driver.gpus), tuple(own), tuple(needed))


def examine(machine: Machine, *overrides: str) -> dict[str, examination.Line]:
    return {line.name: line for line in examination.examine(machine, asks(machine, overrides))}


def advise(machine: Machine, *overrides: str) -> advice.Advice:
    asked = asks(machine, overrides)
    return advice.advise(examination.examine(machine, asked), machine, asked)
