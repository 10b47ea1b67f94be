"""Supervised fine-tuning as one plain PyTorch loop: behind train_local_simple.py and the tiny model's warm start.

Worked solutions become (prompt, completion) token sequences in which only the completion is learnt (`encode`), the loop
takes them in batches of similar length (`train`), and the result is saved in Hugging Face format (`save`). Masks,
batches, optimiser and schedule are functions of their own: train_hf_trainer.py runs the same through transformers.

Shapes: B sequences a batch, T tokens of the longest one, padded on the right.
"""

from __future__ import annotations

import math
import os
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from areal_gsm8k.data.prompts import completion_ids, prompt_ids
from areal_gsm8k.runs import checkpoints, recovery
from areal_gsm8k.runs.run import Run

ALL_DONE = "all steps done"
DTYPES = ("auto", "float32", "bfloat16")
WINDOW = 16  # batches sorted by length together: the padding goes, the order stays nearly random


class Example(NamedTuple):
    """input_ids: T token ids. weights: T loss weights; weights[t] applies to the prediction of input_ids[t]."""

    input_ids: list[int]
    weights: list[float]


@dataclass(frozen=True)
class SFTSettings:
    """What one training run does. `max_steps` (optimiser updates) wins over `epochs` where both are given."""

    lr: float = 1e-5
    epochs: float = 1.0  # passes over the examples
    max_steps: int | None = None
    max_time: float | None = None  # seconds; the step under way is finished
    batch_size: int = 8  # sequences in one forward pass
    gradient_accumulation_steps: int = 1  # forward passes in one update
    schedule: str = "cosine"  # or "linear", "constant"
    min_lr_ratio: float = 0.1  # where the schedule ends, as a share of lr
    warmup_ratio: float = 0.03  # share of the updates in which lr rises from zero
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0
    device: str = "auto"  # or "cpu", "cuda", "mps"
    dtype: str = "auto"  # of products; or "float32", "bfloat16"
    seed: int = 0  # decides the order of the examples, and what dropout drops
    checkpoint_steps: int = 100  # updates between two recovery points, where a folder for them is given


def encode(
    tokenizer, rows, answer_format: str, max_length: int, prompt_weight: float = 0.0, system: str | None = None
) -> list[Example]:
    """Rows with `question` and `answer` as examples of at most `max_length` tokens; longer ones are left out, not cut.

    A cut solution would teach stopping in the middle. The completion's tokens and its end-of-sequence token weigh 1,
    the prompt's `prompt_weight`. Raises ValueError when nothing fits.
    """
    examples, longest = [], 0
    for row in rows:
        prompt = prompt_ids(tokenizer, row["question"], answer_format, system)
        completion = completion_ids(tokenizer, row["answer"], answer_format)
        longest = max(longest, len(prompt) + len(completion))
        if len(prompt) + len(completion) <= max_length:
            examples.append(Example(prompt + completion, [prompt_weight] * len(prompt) + [1.0] * len(completion)))
    if not examples:
        raise ValueError(
            f"no example fits max_length={max_length} (the longest has {longest} tokens); raise max_length"
        )
    return examples


def pick_device(name: str) -> str:
    """The torch device for "auto", "cpu", "cuda" or "mps". Raises ValueError when it is not there."""
    import torch

    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        return next(device for device, present in there.items() if present)
    if not there.get(name, False):
        raise ValueError(
            f"device is {name!r}, which is not available here; choose from {[d for d in there if there[d]]}"
        )
    return name


def in_bf16(device: str, dtype: str = "auto") -> bool:
    """Whether to compute in bfloat16, with weights and optimiser in float32.

    auto: on GPUs with units for it (Ampere on). It is emulated on older GPUs and slower than float32 on most CPUs;
    those with AVX512_BF16 or AMX are faster with it. Raises ValueError for a dtype that is none of the three.
    """
    import torch

    if dtype not in DTYPES:
        raise ValueError(f"dtype is {dtype!r}; it must be one of {', '.join(DTYPES)}")
    if dtype != "auto":
        return dtype == "bfloat16"
    return device == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)


def updates(settings: SFTSettings, examples: list[Example]) -> int:
    """How many weight updates a whole training makes."""
    an_update = settings.batch_size * settings.gradient_accumulation_steps
    return settings.max_steps or max(1, math.ceil(settings.epochs * len(examples) / an_update))


def batches(lengths: list[int], batch_size: int, seed: int) -> Iterator[list[int]]:
    """Endless batches of example indices: shuffled every epoch, neighbours in length together within a window."""
    shuffler = random.Random(seed)
    while True:
        order = list(range(len(lengths)))
        shuffler.shuffle(order)
        for start in range(0, len(order), WINDOW * batch_size):
            window = sorted(order[start : start + WINDOW * batch_size], key=lambda index: lengths[index])
            group = [window[first : first + batch_size] for first in range(0, len(window), batch_size)]
            shuffler.shuffle(group)
            yield from group


def collate(examples: list[Example], pad_id: int, device: str):
    """Right-padded tensors of one batch: input_ids, attention_mask and weights, each (B, T)."""
    import torch

    longest = max(len(example.input_ids) for example in examples)
    padding = [longest - len(example.input_ids) for example in examples]
    pairs = list(zip(examples, padding, strict=True))
    ids = torch.tensor([example.input_ids + [pad_id] * pad for example, pad in pairs])
    mask = torch.tensor([[1] * len(example.input_ids) + [0] * pad for example, pad in pairs])
    weights = torch.tensor([example.weights + [0.0] * pad for example, pad in pairs])
    return ids.to(device), mask.to(device), weights.to(device)


def loss_sum(model, ids, mask, weights):
    """Weighted sum of token losses of one batch, scalar; divide by the sum of the weights for the mean."""
    import torch.nn.functional as functional

    logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits[:, :-1].float()  # (B, T-1, V)
    losses = functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none")  # (B * (T-1))
    return (losses * weights[:, 1:].flatten()).sum()


def make_optimizer(model, settings: SFTSettings):
    """AdamW over all trainable parameters, on the device where they are."""
    import torch

    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    fused = parameters[0].device.type != "mps"
    return torch.optim.AdamW(
        parameters, lr=settings.lr, betas=settings.betas, weight_decay=settings.weight_decay, fused=fused
    )


def learning_rate(settings: SFTSettings, step: int, total: int) -> float:
    """Learning rate of update `step` (from 0) of `total`: linear warm-up, then the schedule down to min_lr_ratio."""
    warmup = round(settings.warmup_ratio * total)
    if step < warmup:
        return settings.lr * (step + 1) / warmup
    done = (step - warmup) / max(1, total - warmup)
    falls = {"cosine": 0.5 * (1 + math.cos(math.pi * done)), "linear": 1 - done, "constant": 1.0}
    if settings.schedule not in falls:
        raise ValueError(f"schedule is {settings.schedule!r}; it must be one of {', '.join(falls)}")
    return settings.lr * (settings.min_lr_ratio + (1 - settings.min_lr_ratio) * falls[settings.schedule])


def train(
    model,
    tokenizer,
    examples: list[Example],
    settings: SFTSettings,
    on_step: Callable[[dict], None] | None = None,
    folder: Path | None = None,
) -> dict:
    """Train `model` in place; returns what was done.

    The summary has steps, total_steps, loss (of the last update), tokens, seconds, device, stop_reason and failed.

    `on_step` gets one dict an update: step (from 1), total, loss (weighted mean over the update's tokens), lr,
    grad_norm, tokens (learnt so far), seconds. A loss or gradient that is not finite ends the training before it
    reaches the weights: failed is then True and stop_reason says what happened.

    With `folder`, recovery points are kept in folder/recovery, and training goes on from the newest one there: every
    loss is that of a training never interrupted, and what is done twice counts once in tokens and seconds.
    """
    import torch

    device = pick_device(settings.device)
    bf16 = in_bf16(device, settings.dtype)
    model.to(device).train()
    optimizer = make_optimizer(model, settings)
    total = updates(settings, examples)
    pad_id = padding_id(tokenizer)
    order = batches([len(example.input_ids) for example in examples], settings.batch_size, settings.seed)
    done = {"step": 0, "loss": None, "tokens": 0, "seconds": 0.0}  # of what recovery points keep beside the tensors
    if folder is not None:
        done |= load_point(folder, model, optimizer)
    for _ in range(done["step"] * settings.gradient_accumulation_steps):
        next(order)
    start, reason, failed = time.monotonic() - done["seconds"], ALL_DONE, False
    for step in range(done["step"], total):
        torch.manual_seed(settings.seed + step)  # dropout; so there is no generator state to keep
        micro = [[examples[index] for index in next(order)] for _ in range(settings.gradient_accumulation_steps)]
        total_weight = sum(sum(example.weights[1:]) for batch in micro for example in batch)
        for group in optimizer.param_groups:
            group["lr"] = lr = learning_rate(settings, step, total)
        mean_loss = 0.0
        for batch in micro:
            ids, mask, weights = collate(batch, pad_id, device)
            with torch.autocast(device_type=device, dtype=torch.bfloat16, enabled=bf16):
                loss = loss_sum(model, ids, mask, weights) / total_weight
            loss.backward()
            mean_loss += loss.item()
        grad_norm = torch.nn.utils.clip_grad_norm_(model.parameters(), settings.max_grad_norm).item()
        if not (math.isfinite(mean_loss) and math.isfinite(grad_norm)):
            reason, failed = not_finite(f"loss {mean_loss}, gradient norm {grad_norm}", step + 1), True
            break
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        done["step"], done["loss"], done["seconds"] = step + 1, mean_loss, time.monotonic() - start
        done["tokens"] += sum(example.weights.count(1.0) for batch in micro for example in batch)
        if on_step is not None:
            on_step({**done, "total": total, "lr": lr, "grad_norm": grad_norm})
        if done["step"] == total:
            break
        out_of_time = settings.max_time is not None and done["seconds"] >= settings.max_time
        if folder is not None and (out_of_time or done["step"] % settings.checkpoint_steps == 0):
            save_point(folder, model, optimizer, done)
        if out_of_time:
            reason = time_is_up(settings)
            break
    summary = {"steps": done.pop("step"), "total_steps": total, **done}
    return {**summary, "device": device, "stop_reason": reason, "failed": failed}


def padding_id(tokenizer) -> int:
    """The id to pad with; which one does not matter, since padding is masked and weighs nothing."""
    return tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id or 0


def not_finite(what: str, step: int) -> str:
    """The reason to stop at an update whose loss or gradient is no number."""
    return f"{what} at step {step}; lower the learning rate"


def time_is_up(settings: SFTSettings) -> str:
    return f"max_time of {settings.max_time:g} s reached"


def save_point(folder: Path, model, optimizer, done: dict) -> None:
    """Keep a recovery point of the training in `folder`: all of it or nothing, however the process ends."""
    import torch

    point = Run(folder).recovery / f"step_{done['step']:05d}"
    unfinished = checkpoints.partial(point)
    unfinished.mkdir()
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, unfinished / "training.pt")
    recovery.finish(unfinished, point, done)


def load_point(folder: Path, model, optimizer) -> dict:
    """Put model and optimiser where the newest recovery point has them; returns what it says is done, {} for none."""
    import torch

    point, notes = recovery.newest(Run(folder))
    for note in notes:
        print(note)
    if point is None:
        return {}
    saved = torch.load(point.folder / "training.pt", map_location="cpu", weights_only=True)
    model.load_state_dict(saved["model"])
    optimizer.load_state_dict(saved["optimizer"])
    return {name: point.state[name] for name in ("step", "loss", "tokens", "seconds")}


def save(model, tokenizer, folder: str | os.PathLike) -> Path:
    """Write model and tokenizer to `folder` in Hugging Face format: all of it or nothing. Replaces what was there.

    Old versions of transformers can load the result: the chat template stays inside tokenizer_config.json.
    """
    from transformers.utils import logging

    logging.disable_progress_bar()
    unfinished = checkpoints.partial(Path(folder))
    model.save_pretrained(unfinished)
    tokenizer.save_pretrained(unfinished, save_jinja_files=False)
    return checkpoints.finish(unfinished, Path(folder))
