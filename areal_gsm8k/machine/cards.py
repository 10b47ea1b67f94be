"""Cards to plan for: as written on the command line (`24`, `2x24`), or those of this machine."""

import os
import re
from dataclasses import dataclass

from areal_gsm8k.machine import nvidia
from areal_gsm8k.machine.nvidia import GIB

_CARDS = re.compile(r"(?:(?P<count>[1-9]\d*)x)?(?P<gib>\d+(?:\.\d+)?)(?:\s*gi?b)?", re.IGNORECASE)


@dataclass(frozen=True)
class CardMemory:
    """One card. `used` is the memory that other programs hold on it."""

    gib: float
    used: float = 0.0

    @property
    def bytes(self) -> int:
        return int(self.gib * GIB)


def read(text: str, option: str) -> list[CardMemory]:
    """`24` or `2x24`: cards and GiB of each. Raises ValueError naming the option."""
    found = _CARDS.fullmatch(text.strip())
    if not found or not float(found["gib"]):
        raise ValueError(f"{option} {text}: give the GiB of a card, as in 24, or cards times GiB, as in 2x24.")
    return [CardMemory(float(found["gib"]))] * int(found["count"] or 1)


def here() -> list[CardMemory]:
    """The NVIDIA cards this process may use, with the memory in use on them; none where no driver answers.

    In the order of CUDA_VISIBLE_DEVICES; a card is left out where nvidia-smi does not tell its memory.
    """
    chosen = nvidia.usable(nvidia.listed(), os.environ.get("CUDA_VISIBLE_DEVICES"))
    return [CardMemory(gpu.memory / GIB, gpu.used / GIB) for gpu in chosen if gpu.memory is not None]
