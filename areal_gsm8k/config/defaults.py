"""The overlays that `./run train` chooses by itself, to suit this machine.

Without --config it chooses all of them; for a model's overlay alone, where there is no GPU, the scale of a CPU.

./run train --dry-run                                           # names them
./run train --config configs/models/qwen2.5-0.5b.yaml --dry-run
"""

import os
import shutil
from pathlib import Path

from areal_gsm8k.config import recipes
from areal_gsm8k.config.compose import as_overrides
from areal_gsm8k.machine import nvidia
from areal_gsm8k.machine.nvidia import GIB
from areal_gsm8k.paths import CONFIGS, CPU_OVERLAY

CARDS = {  # GB: overlays for one GPU with so much memory
    80: ("scales/80gb",),
    24: ("scales/24gb",),
    16: ("scales/16gb",),
    12: ("scales/12gb",),
    8: ("scales/8gb", "algorithms/lora"),
}
COUNTS = (8, 4, 2)  # numbers of GPUs that have an overlay
AMPERE, HOPPER, BLACKWELL = (8, 0), (9, 0), (10, 0)  # compute capabilities
WHERE = ("allocation_mode", "scheduler.type", "rollout.backend", "actor.backend")  # keys that choose where a run runs
SOLD_AS = 1.07  # a card sold as 24 GB may have 22.5 GiB


def suited(memories: list[float]) -> list[Path]:
    """The overlays for GPUs of so many GiB each, as a user would type them; none for no GPU.

    Below 8 GB: the overlays for 8 GB; `gsm8k plan --fit` finds the changes that such a card needs.
    """
    if not memories:
        return []
    one = next((names for size, names in CARDS.items() if size <= min(memories) * SOLD_AS), CARDS[8])
    several = [f"scales/{count}gpus" for count in COUNTS if count <= len(memories)][:1]
    files = [CONFIGS / f"{name}.yaml" for name in (*one, *several)]
    here = Path.cwd()
    return [file.relative_to(here) if file.is_relative_to(here) else file for file in files]


def attention_backend(capabilities: list[tuple[int, int]]) -> str:
    """SGLang's attention kernels that run on all of these compute capabilities, as SGLang chooses (server_args.py).

    fa3 is made for Hopper; flashinfer serves everything from 8.0; Triton the rest.
    """
    if {major for major, _ in capabilities} == {HOPPER[0]}:
        return "fa3"
    return "flashinfer" if min(capabilities) >= AMPERE else "triton"


def server_settings(capabilities: list[tuple[int, int]]) -> dict[str, str]:
    """Settings that SGLang needs on GPUs of these compute capabilities beyond train_grpo.yaml: {} from 8.0 on."""
    if min(capabilities, default=AMPERE) >= AMPERE:
        return {}
    return {"sglang.attention_backend": attention_backend(capabilities), "sglang.sampling_backend": "pytorch"}


def of_this_machine() -> tuple[list[Path], list[str], str]:
    """The overlays, the settings that this generation of GPUs needs, and a sentence with the reason."""
    listed, variable = nvidia.listed(), os.environ.get("CUDA_VISIBLE_DEVICES")
    visible = nvidia.visible([gpu.uuid for gpu in listed], variable)
    if not visible:
        tiny = "a tiny model from scratch, generated problems"
        return [CPU_OVERLAY], [], f"{_why_none(listed, variable)}: using configs/cpu.yaml ({tiny})."
    gpus = [gpu for gpu in listed if str(gpu.index) in visible]
    memories = [gpu.memory / GIB for gpu in gpus if gpu.memory is not None]
    files = suited(memories)
    found = f"{len(visible)} NVIDIA GPU{'s' * (len(visible) > 1)}"
    if memories:
        found += f" ({', '.join(f'{memory:.0f}' for memory in memories)} GiB)"
    using = " and ".join(map(str, files)) or "train_grpo.yaml as it is"
    idle = len(visible) - max(count for count in (*COUNTS, 1) if count <= len(visible))
    rest = f"; {idle} stay{'s' * (idle == 1)} idle" if idle and files else ""
    settings = as_overrides(server_settings([gpu.capability for gpu in gpus]))
    using += f", {', '.join(settings)}" if settings else ""
    return files, settings, f"{found}: using {using}{rest}. Another choice: --config; what fits: ./run gsm8k plan."


def with_scale(config_files: list[Path], overrides: list[str]) -> tuple[list[Path], str]:
    """These overlays, with the scale of a CPU when they are models only and no GPU is here; and the reason, or ""."""
    listed, variable = nvidia.listed(), os.environ.get("CUDA_VISIBLE_DEVICES")
    places = {located.resolve().parent for file in config_files if (located := recipes.locate(file))}
    elsewhere = any(override.split("=")[0] in WHERE for override in overrides)
    if places != {CONFIGS / "models"} or elsewhere or nvidia.visible([gpu.uuid for gpu in listed], variable):
        return config_files, ""
    reason = f"{_why_none(listed, variable)}: adding configs/scales/cpu.yaml (embedded server and trainer on the CPU)"
    return [*config_files, CONFIGS / "scales" / "cpu.yaml"], f"{reason}. Another choice: --config."


def _why_none(listed: list[nvidia.Gpu], variable: str | None) -> str:
    if listed:
        return f"CUDA_VISIBLE_DEVICES={variable} leaves none of this machine's {len(listed)} GPUs"
    if shutil.which("nvidia-smi"):
        return "nvidia-smi lists no GPU (./run doctor says why)"
    return "No NVIDIA GPU found"
