"""The overlays that `./run train` lays over train_grpo.yaml when it is given none: what suits this machine.

./run train --dry-run     # says which
"""

import os
import shutil
from pathlib import Path

from areal_gsm8k.config import devices
from areal_gsm8k.doctor import gpu
from areal_gsm8k.doctor.requested import written
from areal_gsm8k.machine import cards
from areal_gsm8k.machine.facts import Machine
from areal_gsm8k.paths import CONFIGS, CPU_OVERLAY

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
    """The overlays for GPUs of so many GiB each, as one would type them; none for no GPU.

    Below 8 GB those for 8: `gsm8k plan --fit` finds what is to be changed.
    """
    if not memories:
        return []
    one = next((names for size, names in CARDS.items() if size <= min(memories) * SOLD_AS), CARDS[8])
    several = [f"scales/{count}gpus" for count in COUNTS if count <= len(memories)][:1]
    files = [CONFIGS / f"{name}.yaml" for name in (*one, *several)]
    here = Path.cwd()
    return [file.relative_to(here) if file.is_relative_to(here) else file for file in files]


def of_this_machine() -> tuple[list[Path], list[str], str]:
    """The overlays, settings that this generation of GPUs needs, and a sentence that says why these."""
    listed, variable = devices.listed(), os.environ.get("CUDA_VISIBLE_DEVICES")
    visible = devices.visible(listed, variable)
    if not visible:
        tiny = "a tiny model from scratch, generated problems"
        return [CPU_OVERLAY], [], f"{_why_none(listed, variable)}: using configs/cpu.yaml ({tiny})."
    memories = [card.gib for card in cards.here()]
    files = suited(memories)
    found = f"{len(visible)} NVIDIA GPU{'s' * (len(visible) > 1)}"
    if memories:
        found += f" ({', '.join(f'{memory:.0f}' for memory in memories)} GiB)"
    using = " and ".join(map(str, files)) or "train_grpo.yaml as it is"
    idle = len(visible) - max(count for count in (*COUNTS, 1) if count <= len(visible))
    rest = f"; {idle} stay{'s' * (idle == 1)} idle" if idle and files else ""
    settings = written(gpu.server_settings([card.capability for card in gpu.known(Machine())]))
    using += f", {', '.join(settings)}" if settings else ""
    return files, settings, f"{found}: using {using}{rest}. Another choice: --config; what fits: ./run gsm8k plan."


def _why_none(listed: list[str], variable: str | None) -> str:
    if listed:
        return f"CUDA_VISIBLE_DEVICES={variable} leaves none of this machine's {len(listed)} GPUs"
    if shutil.which("nvidia-smi"):
        return "nvidia-smi lists no GPU (./run doctor says why)"
    return "No NVIDIA GPU found"
