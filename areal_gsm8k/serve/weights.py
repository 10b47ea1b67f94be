"""New weights from a Hugging Face folder into the live model, in place.

Every fault (path, names, shapes) is found before the first parameter is touched, so a bad folder
leaves the old weights serving.
"""

from __future__ import annotations

import copy
import json
import os
from contextlib import ExitStack
from typing import Any, cast

import torch
from safetensors import SafetensorError, safe_open


class WeightsError(ValueError):
    """The folder cannot replace the model's weights; the message names what is wrong. Nothing was changed."""


def shards(folder: str) -> list[str]:
    """The safetensors files of a folder. Raises WeightsError."""
    if not os.path.isdir(folder):
        raise WeightsError(f"model path {folder} does not exist or is not a folder")
    index = os.path.join(folder, "model.safetensors.index.json")
    single = os.path.join(folder, "model.safetensors")
    if os.path.isfile(single):
        return [single]
    if not os.path.isfile(index):
        raise WeightsError(f"{folder} holds neither model.safetensors nor model.safetensors.index.json")
    try:
        with open(index, encoding="utf-8") as file:
            names = sorted(set(json.load(file)["weight_map"].values()))
    except (ValueError, KeyError, AttributeError) as error:
        raise WeightsError(f"{index} is not a safetensors index: {error!r}") from error
    paths = [os.path.join(folder, name) for name in names]
    for path in paths:
        if not os.path.isfile(path):
            raise WeightsError(f"{path}, named by the index beside it, does not exist")
    return paths


def update(model: torch.nn.Module, folder: str) -> int:
    """Copy a folder's weights into ``model`` (a Hugging Face model). Returns the number of tensors copied.

    Names as in the model are copied straight from the mapped files. A folder whose names differ (another layout that
    transformers converts while loading) goes through from_pretrained and then must fit without a remainder.
    """
    with ExitStack() as stack:
        source: dict[str, object] = {}
        for path in shards(folder):
            try:
                file = stack.enter_context(safe_open(path, framework="pt"))
            except (SafetensorError, OSError) as error:
                raise WeightsError(f"{path} is not a readable safetensors file: {error}") from error
            source.update((name, file) for name in file.keys())  # noqa: SIM118
        return _copy(model, source, folder)


def _copy(model: torch.nn.Module, source: dict, folder: str) -> int:
    target = model.state_dict(keep_vars=True)
    groups: dict[int, list[str]] = {}  # names that share one tensor (tied embeddings)
    for name, tensor in target.items():
        groups.setdefault(id(tensor), []).append(name)
    unknown = sorted(set(source) - set(target))
    missing = [names[0] for names in groups.values() if not any(n in source for n in names)]
    if unknown or missing:
        return _copy_converted(model, folder, missing, unknown)
    plan = []
    for names in groups.values():
        name = next(n for n in names if n in source)
        want, found = list(target[name].shape), source[name].get_slice(name).get_shape()
        if want != found:
            raise WeightsError(f"{folder}: {name} has shape {found}, the model has {want}")
        plan.append((target[name], source[name], name))
    try:
        fresh = [(tensor, file.get_tensor(name)) for tensor, file, name in plan]  # mapped, not yet read
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{folder}: reading failed: {error}") from error
    with torch.no_grad():
        for tensor, new in fresh:
            tensor.copy_(new)
    return len(fresh)


def _copy_converted(model: torch.nn.Module, folder: str, missing: list[str], unknown: list[str]) -> int:
    """Let transformers map the names; refuse unless the result is complete."""
    problem = f"{folder} does not fit {type(model).__name__}: {len(missing)} names missing, {len(unknown)} unknown"
    for kind, names in (("missing", missing), ("unknown", unknown)):
        problem += f"; {kind}: {', '.join(names[:4])}" if names else ""
    try:
        loaded, report = cast(Any, type(model)).from_pretrained(
            folder, config=copy.deepcopy(model.config), dtype=model.dtype, output_loading_info=True
        )
    except Exception as error:  # from_pretrained raises many kinds on a bad folder; all mean it cannot be loaded
        raise WeightsError(f"{problem}; transformers: {error}") from error
    if any(report.get(kind) for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")):
        raise WeightsError(problem)
    new = loaded.state_dict()
    with torch.no_grad():
        for name, tensor in model.state_dict(keep_vars=True).items():
            tensor.copy_(new[name])
    return len(new)
