"""The supervised training of loop.py through transformers.Trainer: behind train_hf_trainer.py.

Trainer brings its loop, gradient accumulation, clipping, mixed precision, checkpoints and resuming. This file gives
Trainer our batches in our order, our optimiser and schedule, and the loss as the mean over all tokens of an update, so
Trainer's losses are those of `loop.train`.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import accumulate, islice
from pathlib import Path

import torch
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments
from transformers.loss.loss_utils import ForCausalLMLoss

from areal_gsm8k.sft import loop

NOT_LEARNT = -100  # the label that transformers leaves out of the loss


class NotFinite(ArithmeticError):
    """A loss or gradient that is no number; raised before it reaches the weights."""


def train(
    model,
    tokenizer,
    examples: list[loop.Example],
    settings: loop.SFTSettings,
    on_step: Callable[[dict], None],
    folder: Path,
) -> dict:
    """The training of `loop.train` by transformers.Trainer, with the same parameters, events and summary.

    Trainer's checkpoints lie in folder/recovery; the training goes on from the newest complete one there. Weights of
    examples must be 0 or 1. Raises ImportError when accelerate, which Trainer needs, is not installed.
    """
    device = loop.pick_device(settings.device)
    arguments = TrainingArguments(
        output_dir=str(folder / "recovery"),
        use_cpu=device == "cpu",
        bf16=loop.in_bf16(device, settings.dtype),
        seed=settings.seed,
        max_steps=loop.updates(settings, examples),
        gradient_accumulation_steps=settings.gradient_accumulation_steps,
        max_grad_norm=settings.max_grad_norm,
        save_steps=settings.checkpoint_steps,
        save_total_limit=2,
        logging_steps=1,
        logging_nan_inf_filter=False,
        disable_tqdm=True,
        report_to="none",
    )
    arguments._n_gpu = 1  # one device, as the plain loop: with several GPUs Trainer would split every batch  # noqa: SLF001 - Trainer has no setting for it
    micro_batches = arguments.max_steps * settings.gradient_accumulation_steps
    order = list(
        islice(
            loop.batches([len(one.input_ids) for one in examples], settings.batch_size, settings.seed), micro_batches
        )
    )
    watch = StepWatch(settings, learnt_after(order, examples, settings), on_step)
    use_cache = model.config.use_cache  # of generation; Trainer turns it off for good
    trainer = SFTTrainer(model.to(device), tokenizer, examples, order, settings, arguments, watch)
    reason, failed = loop.ALL_DONE, False
    try:
        trainer.train(resume_from_checkpoint=newest_checkpoint(folder / "recovery"))
    except NotFinite as error:
        reason, failed = str(error), True
    else:
        if watch.done["step"] < arguments.max_steps:
            reason = loop.time_is_up(settings)
    model.config.use_cache = use_cache
    summary = {"steps": watch.done.pop("step"), "total_steps": arguments.max_steps, **watch.done}
    return {**summary, "device": device, "stop_reason": reason, "failed": failed}


class SFTTrainer(Trainer):
    """Trainer with our batches, optimiser, schedule and loss.

    `order` holds the micro-batches of the whole training, which Trainer takes for one epoch; an update may then hold
    the end of one pass over the examples and the beginning of the next, as in the plain loop.
    """

    def __init__(self, model, tokenizer, examples, order, settings, arguments, watch):
        optimizer = loop.make_optimizer(model, settings)
        relative = replace(settings, lr=1.0)  # LambdaLR multiplies by the optimiser's own lr
        schedule = LambdaLR(optimizer, lambda step: loop.learning_rate(relative, step, arguments.max_steps))
        super().__init__(
            model,
            arguments,
            train_dataset=examples,
            compute_loss_func=token_mean,
            optimizers=(optimizer, schedule),
            callbacks=[watch],
        )
        self.remove_callback(PrinterCallback)
        # The loss is divided by the tokens of the whole update; accelerate's backward would divide by the number of
        # micro-batches as well (huggingface/transformers issue 40709), and clipping would see too small a gradient.
        self.accelerator.gradient_accumulation_steps = 1
        self.order, self.pad_id = order, loop.padding_id(tokenizer)

    def get_train_dataloader(self) -> DataLoader:
        return DataLoader(self.train_dataset, batch_sampler=self.order, collate_fn=self.tensors)

    def tensors(self, examples: list[loop.Example]) -> dict[str, torch.Tensor]:
        """One micro-batch as the model and Trainer name it, each (B, T)."""
        ids, mask, weights = loop.collate(examples, self.pad_id, "cpu")
        return {"input_ids": ids, "attention_mask": mask, "labels": ids.masked_fill(weights == 0, NOT_LEARNT)}

    def training_step(self, *arguments, **more) -> torch.Tensor:
        loss = super().training_step(*arguments, **more)
        if not loss.isfinite():
            raise NotFinite(loop.not_finite(f"loss {loss.item()}", self.state.global_step + 1))
        return loss


def token_mean(outputs, labels: torch.Tensor, num_items_in_batch: torch.Tensor) -> torch.Tensor:
    """Sum of the learnt tokens' losses over their number in the whole update: the accumulated sum is the token mean.

    Trainer's default would do so for most models, and average over micro-batches for those that do not take the count.
    """
    return ForCausalLMLoss(outputs.logits, labels, outputs.logits.shape[-1], num_items_in_batch)


class StepWatch(TrainerCallback):
    """Reports every update, stops when the time is up, and before a gradient that is no number reaches the weights."""

    def __init__(self, settings: loop.SFTSettings, learnt: list[int], on_step: Callable[[dict], None]):
        self.settings, self.learnt, self.on_step = settings, learnt, on_step
        self.done = {"step": 0, "loss": None, "tokens": 0, "seconds": 0.0}

    def on_train_begin(self, args, state, control, **_):
        if state.log_history:  # of the checkpoint
            self.done = {name: state.log_history[-1][name] for name in self.done}
        self.start = time.monotonic() - self.done["seconds"]

    def on_pre_optimizer_step(self, args, state, control, model, **_):
        gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        if not norm.isfinite():
            raise NotFinite(loop.not_finite(f"gradient norm {norm.item()}", state.global_step + 1))

    def on_step_end(self, args, state, control, **_):
        if state.global_step == state.max_steps:
            control.should_save = False  # the finished model is saved elsewhere
        elif self.settings.max_time is not None and time.monotonic() - self.start >= self.settings.max_time:
            control.should_save = control.should_training_stop = True

    def on_log(self, args, state, control, logs, **_):
        if "loss" not in logs:  # the closing line
            return
        seconds = time.monotonic() - self.start
        self.done = {"step": state.global_step, "loss": logs["loss"], "seconds": seconds}
        self.done["tokens"] = self.learnt[state.global_step]
        state.log_history[-1] |= self.done  # so that checkpoints keep it
        event = {"total": state.max_steps, "lr": logs["learning_rate"], "grad_norm": logs["grad_norm"]}
        self.on_step(self.done | event)


def learnt_after(order: list[list[int]], examples: list[loop.Example], settings: loop.SFTSettings) -> list[int]:
    """Tokens learnt after 0, 1, ... updates."""
    per_batch = [sum(examples[index].weights.count(1.0) for index in batch) for batch in order]
    return list(accumulate(per_batch, initial=0))[:: settings.gradient_accumulation_steps]


def newest_checkpoint(folder: Path) -> str | None:
    """Trainer's newest complete checkpoint; one without trainer_state.json, which comes last, is removed."""
    for checkpoint in sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]), reverse=True):
        try:
            json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            print(f"{checkpoint}: unfinished, removed.")
            shutil.rmtree(checkpoint)
            continue
        return str(checkpoint)
    return None
