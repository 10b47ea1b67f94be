"""The last line of the doctor: a command that runs on this machine as the machine is."""

import shlex
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from areal_gsm8k.config import compose, defaults
from areal_gsm8k.doctor import gpu
from areal_gsm8k.doctor.examination import Line, failed, warned
from areal_gsm8k.doctor.finding import FAIL
from areal_gsm8k.doctor.requested import Requested, read
from areal_gsm8k.machine.facts import Machine
from areal_gsm8k.machine.nvidia import GIB

CPU = "configs/cpu.yaml"
EVERYWHERE = ("host", "disk")  # groups whose failures stop the CPU recipe as well


@dataclass(frozen=True)
class Advice:
    command: str
    remark: str


def recipe(machine: Machine) -> list[Path]:
    """The overlays `./run train` takes by itself on this machine's GPUs; none without one."""
    return defaults.suited([card.memory / GIB for card in gpu.known(machine) if card.memory])


def needed(machine: Machine) -> list[str]:
    """The settings it adds for their generation."""
    return compose.as_overrides(defaults.server_settings([card.capability for card in gpu.known(machine)]))


def advise(lines: list[Line], machine: Machine, requested: Requested) -> Advice:
    """The requested command with settings that cure its failures; the CPU recipe where a person must fix something."""
    cures = dict.fromkeys(line.finding.cure for line in failed(lines) if line.finding.cure)
    files = requested.files
    if not files and not requested.gpus and "driver" in [line.name for line in warned(lines)]:
        files = (Path(CPU),)  # a GPU may be there, and `./run train` by itself would take it
    command = " ".join([_train(files, requested.overrides), *cures])
    by_hand = [line for line in failed(lines) if not line.finding.cure]
    if not by_hand:
        return Advice(command, "with the settings that put the failed lines right" if cures else "")
    if [line.name for line in by_hand] == ["configuration"]:
        return Advice(command, "without the arguments that cannot run")
    names = ", ".join(line.name for line in by_hand)
    if names == "memory plan" and (own := _own_recipe(machine)):
        return Advice(
            " ".join([_train(own, ()), *cures]), f"the recipe for this machine; {requested.model} does not fit"
        )
    if machine.system == "Windows":
        return Advice("wsl --install -d Ubuntu", f"then, inside it: {command}")
    if any(line.group in EVERYWHERE for line in by_hand):
        return Advice(command, f"only after what failed is put right ({names})")
    hidden = "CUDA_VISIBLE_DEVICES= " if gpu.known(machine) else ""
    return Advice(f"{hidden}./run train --config {CPU}", f"runs now; after {names}: {command}")


def _own_recipe(machine: Machine) -> list[Path]:
    """The overlays for this machine's GPUs; none where they do not fit either."""
    files = recipe(machine)
    own = read([], [], len(gpu.known(machine)), files, needed(machine))
    plan = gpu.memory_plan(machine, own)
    return files if plan and plan.level != FAIL else []


def _train(files: Iterable[Path], overrides: Iterable[str]) -> str:
    overlays = [word for file in files for word in ("--config", str(file))]
    return shlex.join(["./run", "train", *overlays, *overrides])
