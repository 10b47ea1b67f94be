"""Saves a model's new weights for the servers beside the files that never change, at the rate of the disk.

AReaL saves configuration, tokenizer and weights anew for every update, from a gathered copy of the whole model in
float32. Here the first update is AReaL's, and every later folder gets that one's small files as hard links and its
weights by the same names.

    save_like("weights/v1", "weights/v2", model, torch.bfloat16, ranks)    # training/actor.py
"""

import os
import shutil
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch.distributed.tensor import DTensor

from areal_gsm8k.training.ranks import Ranks

WEIGHTS = "model.safetensors"


def save_like(before: str | None, folder: str, model: torch.nn.Module, dtype: torch.dtype, ranks: Ranks) -> bool:
    """Save `model`'s weights as `dtype` into `folder`, which becomes a whole model folder like `before`.

    False, with nothing done, when there is none before or its weights are not one file of the model's parameters (an
    adapter, a model of several files): then the caller saves as the first time. Called by all ranks; rank 0, which
    alone need know `before`, decides for all and writes.
    """
    names = ranks.from_first(_names(before) if ranks.first and before else [])
    parameters = dict(model.named_parameters())
    if not names or not all(name in parameters for name in names):
        return False
    tensors = {name: _whole(parameters[name], dtype, ranks.first) for name in names}
    if ranks.first:
        Path(folder).mkdir(parents=True, exist_ok=True)
        for file in Path(str(before)).iterdir():
            if file.name != WEIGHTS:
                _link(file, Path(folder) / file.name)
        save_file(tensors, Path(folder) / WEIGHTS, metadata={"format": "pt"})
    return True


def _names(folder: str) -> list[str]:
    file = Path(folder) / WEIGHTS
    if not file.exists():
        return []
    with safe_open(file, "pt") as saved:
        return list(saved.keys())


def _whole(parameter: torch.Tensor, dtype: torch.dtype, keep: bool) -> torch.Tensor:
    """The parameter gathered from all ranks, on the CPU; an empty tensor on ranks that do not keep it."""
    whole = parameter.detach()
    if isinstance(whole, DTensor):
        whole = whole.full_tensor()
    return whole.to("cpu", dtype).contiguous() if keep else whole.new_empty(0)


def _link(file: Path, to: Path) -> None:
    try:
        os.link(file, to)
    except OSError:  # a file system without links
        shutil.copy2(file, to)
