"""The overlays that `./run train` lays over train_grpo.yaml when it is given none: what suits this machine.

./run train --dry-run     # says which
"""

import os
from pathlib import Path

from areal_gsm8k.loop import devices
from areal_gsm8k.loop.config import CPU_OVERLAY, PROJECT
from areal_gsm8k.memory import cards

CARDS = {  # GB: overlays for one GPU of so much
    80: ("scales/80gb",),
    24: ("scales/24gb",),
    16: ("scales/16gb",),
    12: ("scales/12gb",),
    8: ("scales/8gb", "algorithms/lora"),
}
COUNTS = (8, 4, 2)  # overlays for several
SOLD_AS = 1.07  # a card sold as 24 GB may have 22.5 GiB


def suited(memories: list[float]) -> list[Path]:
    """The overlays for GPUs of so many GiB each, as one would type them; none for no GPU or for less than 8 GB."""
    if not memories:
        return []
    one = [names for size, names in CARDS.items() if size <= min(memories) * SOLD_AS][:1]
    several = [(f"scales/{count}gpus",) for count in COUNTS if count <= len(memories)][:1]
    files = [PROJECT / "configs" / f"{name}.yaml" for names in one + several for name in names]
    here = Path.cwd()
    return [file.relative_to(here) if file.is_relative_to(here) else file for file in files]


def of_this_machine() -> tuple[list[Path], str]:
    """The overlays, and a sentence that says why these."""
    visible = devices.visible(devices.listed(), os.environ.get("CUDA_VISIBLE_DEVICES"))
    if not visible:
        return [
            CPU_OVERLAY
        ], "No NVIDIA GPU found: using configs/cpu.yaml (a tiny model from scratch, generated problems)."
    memories = [card.gib for number, card in enumerate(cards.here()) if str(number) in visible]
    files = suited(memories)
    found = f"{len(visible)} NVIDIA GPU{'s' * (len(visible) > 1)}"
    if memories:
        found += f" of {min(memories):.0f} GiB"
    using = " and ".join(map(str, files)) or "train_grpo.yaml as it is"
    return files, f"{found}: using {using}. Another choice: --config; what fits: ./run gsm8k plan."
