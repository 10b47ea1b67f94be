"""The last line: a command that runs on this machine, as it is."""

import shlex
from dataclasses import dataclass
from pathlib import Path

from areal_gsm8k.doctor import gpu
from areal_gsm8k.doctor.examination import Line, failed
from areal_gsm8k.doctor.machine import GIB, Machine
from areal_gsm8k.doctor.wanted import Wanted
from areal_gsm8k.loop import scales

EVERYWHERE = ("host", "disk")  # groups whose failures stop the CPU recipe as well


@dataclass(frozen=True)
class Advice:
    command: str
    remark: str


def recipe(machine: Machine) -> list[Path]:
    """The overlays `./run train` takes by itself on this machine's GPUs; none without one."""
    return scales.suited([card.memory / GIB for card in gpu.known(machine)])


def advise(lines: list[Line], machine: Machine, wanted: Wanted) -> Advice:
    """The command asked for, with the settings that cure its failures; the CPU recipe where a failure needs hands."""
    cures = dict.fromkeys(line.finding.cure for line in failed(lines) if line.finding.cure)
    overlays = [word for file in wanted.files for word in ("--config", str(file))]
    command = " ".join([shlex.join(["./run", "train", *overlays, *wanted.overrides]), *cures])
    by_hand = [line for line in failed(lines) if not line.finding.cure]
    if not by_hand:
        return Advice(command, "with the settings that put the failed lines right" if cures else "")
    if [line.name for line in by_hand] == ["configuration"]:
        return Advice(command, "without the arguments that cannot run")
    names = ", ".join(line.name for line in by_hand)
    if machine.system == "Windows":
        return Advice("wsl --install -d Ubuntu", f"then, inside it: {command}")
    if any(line.group in EVERYWHERE for line in by_hand):
        return Advice(command, f"only after what failed is put right ({names})")
    hidden = "CUDA_VISIBLE_DEVICES= " if gpu.known(machine) else ""
    return Advice(f"{hidden}./run train --config configs/cpu.yaml", f"runs now; after {names}: {command}")
