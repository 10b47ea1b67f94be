"""The engine `hf`: transformers' own generate, in this process, for anything AutoModelForCausalLM loads.

It is the slowest engine and the one with the fewest assumptions, so the others are compared with it.

Shapes: B prompts a batch, T tokens of the longest, padded on the left; N new tokens.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import nullcontext
from itertools import groupby, islice
from pathlib import Path

import torch
from safetensors import SafetensorError
from transformers import (
    AutoModelForCausalLM,
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    StoppingCriteria,
    StoppingCriteriaList,
)
from transformers.utils import logging

from areal_gsm8k.data.prompts import configured_stop_ids, stop_ids
from areal_gsm8k.evaluation.engine import Answer, CompletionRequest, Deliver
from areal_gsm8k.evaluation.model import Model
from areal_gsm8k.evaluation.settings import EvaluationError, EvaluationSettings
from areal_gsm8k.sft.loop import pick_device

RANDOM_STATE = threading.Lock()  # torch has one for all; models that sample in threads take turns


def load(folder: Path, dtype: str = "auto"):
    """The folder's causal language model; dtype auto: float32 on a CPU, its own on a GPU. Raises EvaluationError."""
    logging.disable_progress_bar()
    device = pick_device("auto")
    if dtype == "auto" and device == "cpu":
        dtype = "float32"
    try:
        return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).to(device).eval()
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
        reason = " ".join(str(error).split())
        raise EvaluationError(f"{folder}: cannot be loaded as a causal language model ({reason})") from None


class TransformersEngine:
    """A loaded model and its tokenizer."""

    def __init__(self, model: Model, settings: EvaluationSettings):
        """Raises EvaluationError when transformers cannot load it as a causal language model."""
        self.tokenizer, self.settings = model.tokenizer, settings
        self.model = load(model.folder, settings.dtype)
        self.stop_ids = configured_stop_ids(self.model) | set(stop_ids(self.tokenizer))
        pad = self.tokenizer.pad_token_id
        self.pad_id = pad if pad is not None else min(self.stop_ids, default=0)  # masked, and cut off behind a stop
        self.model.generation_config = GenerationConfig()  # else its own top_p or repetition_penalty would apply

    def answer(self, requests: list[CompletionRequest], deliver: Deliver) -> None:
        """Batches of neighbours in length, the longest first; a batch shares its limit on new tokens."""
        ordered = sorted(requests, key=lambda request: (request.max_new_tokens, -len(request.prompt_ids)))
        for _, same_limit in groupby(ordered, key=lambda request: request.max_new_tokens):
            while batch := list(islice(same_limit, self.settings.batch_size)):
                deliver(list(zip(batch, self._generate(batch), strict=True)))

    async def stream(self, request: CompletionRequest, tell: Callable[[str], None]) -> Answer:
        """Generate in a thread, which ends with the next token when the call is cancelled."""
        watch = TokenWatch(
            len(request.prompt_ids), lambda ids: tell(self.tokenizer.decode(ids, skip_special_tokens=True))
        )
        try:
            (answer,) = await asyncio.to_thread(self._generate, [request], [watch])
            return answer
        finally:
            watch.stopped.set()

    @torch.inference_mode()
    def _generate(self, batch: list[CompletionRequest], watches: list[StoppingCriteria] | None = None) -> list[Answer]:
        longest = max(len(request.prompt_ids) for request in batch)
        padding = [longest - len(request.prompt_ids) for request in batch]
        ids = [[self.pad_id] * pad + request.prompt_ids for request, pad in zip(batch, padding, strict=True)]
        mask = [[0] * pad + [1] * (longest - pad) for pad in padding]
        sampling = {"do_sample": False}
        if self.settings.temperature > 0:
            sampling = {"do_sample": True, "temperature": self.settings.temperature, "top_k": 0, "top_p": 1.0}
        limit = batch[0].max_new_tokens
        broken = BrokenLogits(len(batch))
        with RANDOM_STATE if sampling["do_sample"] else nullcontext(), torch.random.fork_rng():
            torch.manual_seed(batch[0].seed)
            try:
                output = self.model.generate(
                    input_ids=torch.tensor(ids, device=self.model.device),  # (B, T)
                    attention_mask=torch.tensor(mask, device=self.model.device),
                    generation_config=GenerationConfig(
                        max_new_tokens=limit,
                        eos_token_id=sorted(self.stop_ids) or None,
                        pad_token_id=self.pad_id,
                        **sampling,
                    ),
                    logits_processor=LogitsProcessorList([broken]),
                    stopping_criteria=StoppingCriteriaList(watches or []),
                )
            except torch.OutOfMemoryError:
                raise EvaluationError(
                    f"out of GPU memory with {len(batch)} completions at once; lower the batch size"
                ) from None
        return [
            Answer(error="the model's logits are not finite") if bad else self._answer(tokens, limit)
            for tokens, bad in zip(output[:, longest:].tolist(), broken.rows.tolist(), strict=True)
        ]

    def _answer(self, tokens: list[int], limit: int) -> Answer:
        """One row of the output, cut behind its first stop token."""
        end = next((place for place, token in enumerate(tokens) if token in self.stop_ids), None)
        tokens = tokens if end is None else tokens[: end + 1]
        text = self.tokenizer.decode(tokens, skip_special_tokens=True)
        return Answer(text, len(tokens), truncated=end is None and len(tokens) >= limit)


class TokenWatch(StoppingCriteria):
    """Shows the tokens of a batch of one as they come, and ends it once `stopped` is set."""

    def __init__(self, prompt_tokens: int, show: Callable[[list[int]], None]):
        self.prompt_tokens, self.show, self.stopped = prompt_tokens, show, threading.Event()

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **_) -> torch.Tensor:
        self.show(input_ids[0, self.prompt_tokens :].tolist())
        return torch.tensor([self.stopped.is_set()], device=input_ids.device)


class BrokenLogits(LogitsProcessor):
    """Notes the rows in which a NaN came up: argmax would make a token of it without a word."""

    def __init__(self, rows: int):
        self.rows = torch.zeros(rows, dtype=torch.bool)

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        self.rows |= scores.isnan().any(dim=-1).cpu()
        return scores.nan_to_num(nan=0.0, neginf=float("-inf"), posinf=torch.finfo(scores.dtype).max)
