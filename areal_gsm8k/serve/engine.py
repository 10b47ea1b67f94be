"""Continuous batching for one Hugging Face causal LM: requests join and leave at every token.

One ``step`` decodes one token for every running row, prefills waiting prompts, and samples for both at once. The engine
is synchronous and not thread-safe: the server drives it from one thread (``worker``), evaluation calls ``generate``.

    engine = Engine.from_pretrained("runs/demo/1/checkpoints/last", seed=1)
    completions = engine.generate([[1, 2, 3]], SamplingParams(max_new_tokens=32, temperature=0.0))
"""

from __future__ import annotations

import random
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import torch

from areal_gsm8k.serve.prompt_cache import Prompt, RecentPrompts

from .model import LanguageModel
from .params import SamplingParams
from .request import Request
from .sampling import probabilities, sample
from .scoring import best, prompt_logprobs
from .throughput import Throughput
from .tokenizer import load_tokenizer

# SGLang's: an answer ends this many tokens before the context does, and a prompt leaves room for so long an answer.
LEFT_FREE, SHORTEST_ANSWER = 2, 5


@dataclass(frozen=True)
class Completion:
    """One answer. ``logprobs`` are those of the distribution each token was drawn from (see sampling.sample)."""

    token_ids: list[int]
    logprobs: list[float]
    text: str
    finish_reason: str  # "stop" | "length"
    matched: int | str | None  # the stop id or string that ended it


class Engine:
    """A model, the requests it is answering, and the controls SGLang offers over them."""

    def __init__(self, model: LanguageModel, path: str, max_running_requests: int = 256, seed: int = 0):
        self.model = model
        self.path = self.tokenizer_path = path
        self.weight_version = "default"
        self.tokenizer = load_tokenizer(model.folder)
        self.eos_ids = model.eos_ids | (self.tokenizer.eos_ids if self.tokenizer else frozenset())
        self.max_running_requests = max_running_requests
        self.random = random.Random(seed)
        self.slab = model.new_slab()
        self.running: list[Request] = []  # row i of the slab belongs to running[i]
        self.waiting: deque[Request] = deque()
        self.held: deque[Request] = deque()  # arrived while paused
        self.joining: list[Request] = []  # taken from waiting in the step under way
        self.done: list[Request] = []  # finished or aborted since take_done
        self.paused: str | None = None
        self.admitting = True  # False while a weight update waits for the running requests
        self.recent = RecentPrompts()
        self.throughput = Throughput()

    @classmethod
    def from_pretrained(
        cls,
        path: str,
        device: str = "auto",
        dtype: str = "auto",
        max_running_requests: int = 256,
        context_length: int | None = None,
        seed: int = 0,
    ) -> Engine:
        """Load a Hugging Face folder. Raises model.ModelError with one clear line."""
        return cls(LanguageModel(str(path), device, dtype, context_length), str(path), max_running_requests, seed)

    # -- requests ------------------------------------------------------------------------------------------------------

    def request(self, prompt_ids: list[int], params: SamplingParams, sample: int = 0, **options) -> Request:
        """Sample ``sample`` of a prompt, checked against this model. Raises ValueError in SGLang's words."""
        context, length = self.model.context_length, len(prompt_ids)
        if not length:
            raise ValueError("input_ids cannot be empty.")
        if min(prompt_ids) < 0 or max(prompt_ids) >= self.model.vocab_size:
            raise ValueError(f"The input_ids contain values outside the vocabulary (0 to {self.model.vocab_size - 1}).")
        if length >= context:
            raise ValueError(
                f"The input ({length} tokens) is longer than the model's context length ({context} tokens)."
            )
        if length > (longest := context - LEFT_FREE - SHORTEST_ANSWER):
            raise ValueError(f"Input length ({length} tokens) exceeds the maximum allowed length ({longest} tokens).")
        if params.max_new_tokens is not None and length + params.max_new_tokens >= context:
            raise ValueError(
                f"Requested token count exceeds the model's maximum context length of {context} tokens. You requested "
                f"a total of {length + params.max_new_tokens} tokens: {length} tokens from the input messages and "
                f"{params.max_new_tokens} tokens for the completion."
            )
        if params.stop and self.tokenizer is None:
            raise ValueError(f"stop={list(params.stop)} needs a tokenizer, and {self.path} holds none.")
        limit = context - LEFT_FREE - length
        seed = self.random.getrandbits(63) if params.seed is None else params.seed + sample
        stop_ids = () if params.ignore_eos else (*params.stop_token_ids, *self.eos_ids)
        return Request(
            prompt_ids=prompt_ids,
            params=params,
            seed=seed % 2**64,
            max_new_tokens=limit if params.max_new_tokens is None else min(limit, params.max_new_tokens),
            stop_ids=frozenset(t for t in stop_ids if 0 <= t < self.model.vocab_size),
            tokenizer=self.tokenizer,
            **options,
        )

    def submit(self, request: Request) -> None:
        (self.held if self.paused else self.waiting).append(request)

    def take_done(self) -> list[Request]:
        done, self.done = self.done, []
        return done

    @property
    def has_work(self) -> bool:
        return not self.paused and bool(self.running or (self.waiting and self.admitting))

    def generate(self, prompts: list[list[int]], params: SamplingParams | list[SamplingParams]) -> list[Completion]:
        """Answer all prompts, batched; params for all or one each; n > 1 gives n neighbours in the result.

        With ``seed`` in shared params every prompt draws its own numbers, as if prompt i had seed + i * n. Raises
        ValueError on a prompt that does not fit, RuntimeError when the model breaks.
        """
        shared = not isinstance(params, list)
        each = [params] * len(prompts) if shared else params
        requests = []
        for i, (ids, own) in enumerate(zip(prompts, each, strict=True)):
            first = i * own.n if shared else 0
            requests += [self.request(list(ids), own, first + sample) for sample in range(own.n)]
        for request in requests:
            self.submit(request)
        while self.has_work:
            self.step()
        self.take_done()
        completions = []
        for request in requests:
            reason = request.finish_reason
            if reason["type"] == "abort":
                raise RuntimeError(reason["message"])
            completions.append(
                Completion(
                    request.output_ids, request.output_logprobs, request.text(), reason["type"], reason.get("matched")
                )
            )
        return completions

    # -- one token -----------------------------------------------------------------------------------------------------

    @torch.inference_mode()
    def step(self) -> None:
        """One token for every running request and the first token for those that join."""
        joining = self._admit()
        parts = []
        if self.running:
            tokens = [r.output_ids[-1] for r in self.running]
            parts.append(self.model.decode(self.slab, tokens, [r.length - 1 for r in self.running]))
        if joining:
            parts.append(torch.stack([prompt.logits for _, prompt in joining]))
        if not parts:
            self.joining = []
            return
        requests = self.running + [r for r, _ in joining]
        logits = torch.cat(parts) if len(parts) > 1 else parts[0]
        tokens, logprobs = sample(logits, requests)
        self.throughput.add(len(tokens))
        count = len(self.running)
        dead, stay = [], []
        for row, (request, token, logprob) in enumerate(zip(requests, tokens, logprobs, strict=True)):
            if request.top_logprobs:
                probs = probabilities(logits[row : row + 1], [request])[0]
                request.output_top.append(best(probs.log(), request.top_logprobs))
            if request.accept(token, logprob):
                self._finish(request)
                if row < count:
                    dead.append(row)
            elif row >= count:
                stay.append(joining[row - count])
        if dead:
            self.running = [self.running[r] for r in self.slab.remove(dead)]
        if stay:
            stay.sort(key=lambda pair: id(pair[1]))  # the samples of one prompt side by side: one copy for all
            self.slab.insert([(prompt.packed, prompt.length) for _, prompt in stay])
            self.running.extend(request for request, _ in stay)
        self.joining = []

    def _admit(self) -> list[tuple[Request, Prompt]]:
        """Take waiting requests, each with its prefilled prompt; equal prompts are prefilled once.

        As many as rows are free and as one prefill batch holds, so that a step stays short and a pause prompt.
        """
        joining, tokens = self.joining, 0
        free = self.max_running_requests - len(self.running)
        while self.waiting and self.admitting and len(joining) < free:
            tokens += self.waiting[0].length
            if joining and tokens > self.model.prefill_tokens:
                break
            joining.append(self.waiting.popleft())
        if not joining:
            return []
        keys = [tuple(r.prompt_ids + r.output_ids) for r in joining]
        ready: dict[tuple[int, ...], Prompt] = {}
        new: dict[tuple[int, ...], None] = {}
        for key, request in zip(keys, joining, strict=True):
            if request.logprob_start is not None and not request.output_ids:
                logits, packed = self.model.prefill([list(key)], self.slab, keep=len(key) - request.logprob_start)[0]
                prompt_logprobs(request, logits)
                ready[key] = Prompt(logits[-1], packed, len(key))
            elif key in new or key in ready:
                request.cached_tokens = len(key)
            elif (prompt := self.recent.get(key)) is not None:
                ready[key] = prompt
                request.cached_tokens = len(key)
            else:
                new[key] = None
        if new:
            for key, (logits, packed) in zip(new, self.model.prefill([list(k) for k in new], self.slab), strict=True):
                ready[key] = Prompt(logits[-1].clone(), [p.clone() for p in packed], len(key))
                self.recent.put(key, ready[key])
        joined = []
        for key, request in zip(keys, joining, strict=True):
            if request.max_new_tokens == 0:
                request.finish_reason = {"type": "length", "length": 0}
                self._finish(request)
            else:
                joined.append((request, ready[key]))
        return joined

    def _finish(self, request: Request) -> None:
        request.finished = time.monotonic()
        request.weight_version = self.weight_version
        self.done.append(request)

    # -- controls, all at a token boundary -----------------------------------------------------------------------------

    def abort(self, match: Callable[[Request], bool], held: bool = False) -> None:
        """End matching requests where they stand; those held since a pause only with ``held``, as SGLang does."""
        dead = [row for row, request in enumerate(self.running) if match(request)]
        for row in dead:
            self.running[row].abort("Aborted")
            self._finish(self.running[row])
        if dead:
            self.running = [self.running[r] for r in self.slab.remove(dead)]
        for queue in (self.waiting, self.held) if held else (self.waiting,):
            for request in [r for r in queue if match(r)]:
                queue.remove(request)
                request.abort("Aborted" if request.output_ids else "Abort in waiting queue")
                self._finish(request)

    def pause(self, mode: str = "abort") -> None:
        """Stop generating. abort ends all requests; retract drops their keys and values, which are computed again
        with the weights of the continuation; in_place keeps them, so that after a weight update the requests go on
        with the keys and values of the old weights.
        """
        if mode == "abort":
            self.abort(lambda request: True)
        elif mode == "retract":
            self.waiting.extendleft(reversed(self.running))
            self.running = []
            self.slab.clear()
        elif mode != "in_place":
            raise ValueError(f"mode must be abort, retract or in_place, got {mode!r}")
        self.paused = mode

    def resume(self) -> None:
        self.paused = None
        self.waiting.extend(self.held)
        self.held.clear()

    def flush(self) -> bool:
        """Forget reusable prompts; while requests run or wait, do nothing and return False."""
        if self.running or self.waiting:
            return False
        self.recent.clear()
        self.slab.clear()
        return True

    def update_weights(self, path: str, weight_version: str | None = None) -> int:
        """Replace the weights by a folder's. Raises weights.WeightsError, and keeps the old ones, on a misfit."""
        count = self.model.update_weights(path)
        self.path = path
        self.weight_version = weight_version or self.weight_version
        self.recent.clear()
        if not self.running:
            self.slab.clear()
        return count

    def fail(self, error: Exception) -> None:
        """After a step that raised: every request it served ends with a 500, and the engine is as new."""
        for request in (*self.running, *self.joining):
            if request.finish_reason is None:
                request.abort(f"{type(error).__name__}: {error}", status_code=500)
                self._finish(request)
        self.running, self.joining = [], []
        self.slab = self.model.new_slab()
        self.recent.clear()
