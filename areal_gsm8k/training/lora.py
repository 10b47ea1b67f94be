"""Merges LoRA weights into the model that they were trained beside.

AReaL 1.0.4 sends bare adapters to SGLang and vLLM, from its single controller only; our embedded server takes none. All
of them load a whole model, `gsm8k eval` reads one and a resumed run starts from one, so we save the merged model:

    ./run train --config configs/algorithms/lora.yaml
"""

from collections.abc import Mapping
from typing import Any

import torch

PREFIX, FROZEN = "base_model.model.", ".base_layer"  # PEFT's names: base_model.model.<module>.base_layer.weight
ADAPTER = ".lora_"


def merged(state: Mapping[str, Any], scaling: float, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """The state dict of the plain model: W + scaling * B A for every adapted weight, in `dtype`.

    `state` has PEFT's names, W (out, in), A (rank, in), B (out, rank); scaling is alpha / rank (LoRA, arXiv 2106.09685,
    section 4.1). The sum is taken in float32.
    """
    plain = {}
    for name, weight in state.items():
        if ADAPTER in name:
            continue
        module = name.removesuffix(".weight").removesuffix(FROZEN)
        down, up = (state.get(f"{module}.lora_{side}.default.weight") for side in "AB")
        adapted = weight if down is None or up is None else weight.float() + scaling * (up.float() @ down.float())
        plain[name.removeprefix(PREFIX).replace(f"{FROZEN}.", ".")] = (
            adapted.to(dtype) if adapted.is_floating_point() else adapted
        )
    return plain
