"""Sampling parameters as SGLang names them, and one batched sampler that treats every row by its own.

Drawing is by inverse CDF: one uniform number a row, from a counter-based generator over (seed, position). It is faster
than multinomial or Gumbel noise on a CPU, needs no generator state, does not depend on which rows share a batch, and a
seeded answer that was interrupted and resent as prompt + partial goes on exactly as it would have.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from .request import Request

GREEDY_BELOW = 1e-6  # temperatures under this mean argmax, as in SGLang
LARGEST_VOCABULARY = 1 << 20  # a top_k from here on cuts nothing (AReaL sends 10^8 for "all")
UNSUPPORTED = ("regex", "json_schema", "ebnf", "structural_tag", "logit_bias", "stop_regex", "custom_params")
IGNORED = ("spaces_between_special_tokens", "stream_interval")


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How one answer is drawn and when it ends. Field names and defaults are SGLang's, but for ``seed``."""

    max_new_tokens: int | None = 128  # None: up to the context length
    min_new_tokens: int = 0  # stop ids are ruled out before this many tokens
    temperature: float = 1.0  # 0: argmax, with logprobs at temperature 1
    top_p: float = 1.0
    top_k: int = -1  # -1: whole vocabulary
    min_p: float = 0.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False  # as in SGLang, also switches stop_token_ids off
    skip_special_tokens: bool = True
    no_stop_trim: bool = False  # keep the matched stop in the text
    n: int = 1
    seed: int | None = None  # SGLang's sampling_seed; sample i of n uses seed + i

    # Worked out once, as every token asks for them.
    greedy: bool = field(init=False, repr=False, compare=False)
    divisor: float = field(init=False, repr=False, compare=False)  # of logits: the temperature; 1 for temperature 0
    truncates: bool = field(init=False, repr=False, compare=False)
    penalises: bool = field(init=False, repr=False, compare=False)

    def __post_init__(self):
        """Raises ValueError in SGLang's words when a value is out of range or of the wrong type."""
        self._verify()
        cold = self.temperature < GREEDY_BELOW
        greedy = cold or self.top_k == 1
        derived = {
            "greedy": greedy,
            "divisor": 1.0 if cold else self.temperature,
            "truncates": not greedy and (self.top_p < 1.0 or 1 < self.top_k < LARGEST_VOCABULARY or self.min_p > 0.0),
            "penalises": bool(self.frequency_penalty or self.presence_penalty or self.min_new_tokens),
        }
        for name, value in derived.items():
            object.__setattr__(self, name, value)

    @classmethod
    def parse(cls, given: dict | None) -> SamplingParams:
        """From the JSON of a request. Raises ValueError that names the key."""
        if given is not None and not isinstance(given, dict):
            raise ValueError(f"sampling_params must be an object, got {type(given).__name__}")
        values = {k: v for k, v in (given or {}).items() if v is not None or k == "max_new_tokens"}
        for key in UNSUPPORTED:
            if values.pop(key, None):
                raise ValueError(f"sampling_params.{key} is not supported by this server")
        if values.pop("repetition_penalty", 1.0) != 1.0:
            raise ValueError("sampling_params.repetition_penalty is not supported by this server")
        for key in IGNORED:
            values.pop(key, None)
        if "sampling_seed" in values:
            values["seed"] = values.pop("sampling_seed")
        known = {f.name for f in fields(cls) if f.init}
        if unknown := sorted(set(values) - known):
            raise ValueError(f"unknown sampling_params: {', '.join(unknown)}")
        stop = values.get("stop", ())
        values["stop"] = (stop,) if isinstance(stop, str) else tuple(stop)
        values["stop_token_ids"] = tuple(values.get("stop_token_ids", ()))
        return cls(**values)

    def _verify(self) -> None:
        for name in ("temperature", "top_p", "min_p", "frequency_penalty", "presence_penalty"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                raise ValueError(f"{name} must be a number, got {value!r}.")
        for name in ("max_new_tokens", "min_new_tokens", "top_k", "n", "seed"):
            value = getattr(self, name)
            optional = name in ("max_new_tokens", "seed") and value is None
            if isinstance(value, bool) or not (optional or isinstance(value, int)):
                raise ValueError(f"{name} must be an integer, got {value!r}.")
        if not 0.0 <= self.temperature < float("inf"):
            raise ValueError(f"temperature must be a non-negative finite number, got {self.temperature}.")
        if not 0.0 < self.top_p <= 1.0:
            raise ValueError(f"top_p must be in (0, 1], got {self.top_p}.")
        if not 0.0 <= self.min_p <= 1.0:
            raise ValueError(f"min_p must be in [0, 1], got {self.min_p}.")
        if self.top_k < 1 and self.top_k != -1:
            raise ValueError(f"top_k must be -1 (disable) or at least 1, got {self.top_k}.")
        for name in ("frequency_penalty", "presence_penalty"):
            if not -2.0 <= getattr(self, name) <= 2.0:
                raise ValueError(f"{name} must be in [-2, 2], got {getattr(self, name)}.")
        if self.max_new_tokens is not None:
            if self.max_new_tokens < 0:
                raise ValueError(f"max_new_tokens must be at least 0, got {self.max_new_tokens}.")
            if not 0 <= self.min_new_tokens <= self.max_new_tokens:
                raise ValueError(
                    f"min_new_tokens must be in [0, max_new_tokens({self.max_new_tokens})], got {self.min_new_tokens}."
                )
        if self.n < 1:
            raise ValueError(f"n must be at least 1, got {self.n}.")
        if not all(isinstance(s, str) and s for s in self.stop):
            raise ValueError("stop must be a non-empty string or a list of them")
        if not all(isinstance(t, int) for t in self.stop_token_ids):
            raise ValueError("stop_token_ids must be a list of integers")


def uniforms(seeds: list[int], positions: list[int]) -> np.ndarray:
    """One float64 in [0, 1) a row, a fixed function of (seed, position): SplitMix64 (Steele, Lea, Flood 2014)."""
    with np.errstate(over="ignore"):
        x = np.array(seeds, dtype=np.uint64)
        x += (np.array(positions, dtype=np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        x ^= x >> np.uint64(31)
    return (x >> np.uint64(11)) * 2.0**-53


def penalised(logits: torch.Tensor, requests: list[Request]) -> torch.Tensor:
    """Logits (rows, vocab) less frequency and presence penalties, with stop ids ruled out below min_new_tokens."""
    logits = logits.clone()
    for row, request in zip(logits, requests, strict=True):
        params = request.params
        if request.output_ids:
            ids, counts = np.unique(request.output_ids, return_counts=True)
            costs = params.frequency_penalty * counts + params.presence_penalty
            row[torch.from_numpy(ids).to(row.device)] -= torch.from_numpy(costs).to(row)
        if len(request.output_ids) < params.min_new_tokens and request.stop_ids:
            row[list(request.stop_ids)] = float("-inf")
    return logits


def truncated(probs: torch.Tensor, requests: list[Request], u: torch.Tensor) -> torch.Tensor:
    """Draw ids (rows, 1) from each row's top-k, top-p, min-p nucleus; all three cut the same untruncated distribution.

    A token stays in the nucleus when the mass above it is at most top_p (SGLang's rule), so the best one always does.
    """
    params = [r.params for r in requests]
    vocab = probs.shape[1]
    top_k = [p.top_k if 0 < p.top_k < vocab else vocab for p in params]
    # probs of each row from the best down to the largest rank any row wants: (rows, ranks)
    best, ids = probs.topk(max(top_k), dim=-1)

    def column(values: list) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.float64, device=probs.device)[:, None]

    above = best.cumsum(-1, dtype=torch.float64) - best
    keep = above <= column([p.top_p if p.top_p < 1.0 else 2.0 for p in params])
    keep &= torch.arange(best.shape[1], device=probs.device) < column(top_k)
    keep &= best >= best[:, :1] * column([p.min_p for p in params])
    return ids.gather(1, inverse_cdf(best * keep, u))


def inverse_cdf(weights: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
    """Index (rows, 1) drawn in proportion to weights (rows, choices). Float64 sums: a float32 CDF loses rare tokens."""
    cdf = weights.cumsum(-1, dtype=torch.float64)
    # Shrunk by 2^-40 so that rounding never lands beyond the last weight above 0.
    return torch.searchsorted(cdf, u * (cdf[:, -1:] * (1.0 - 2.0**-40)), right=True)


def sample(logits: torch.Tensor, requests: list[Request]) -> tuple[list[int], list[float], torch.Tensor]:
    """Next token of every row. logits (rows, vocab); row i belongs to requests[i].

    Returns ids, their logprobs, and the probabilities (rows, vocab) both are of: softmax(logits / T) after penalties
    and before top-p, top-k and min-p, which is what SGLang reports (and at temperature 0 that of T = 1).
    """
    logits = logits.float()
    params = [r.params for r in requests]
    if any(p.penalises for p in params):
        logits = penalised(logits, requests)
    divisors = [p.divisor for p in params]
    if len(set(divisors)) > 1:
        logits = logits / torch.tensor(divisors, device=logits.device)[:, None]
    elif divisors[0] != 1.0:
        logits = logits / divisors[0]
    probs = torch.softmax(logits, -1)
    greedy = [p.greedy for p in params]
    if all(greedy):
        ids = logits.argmax(-1, keepdim=True)
    else:
        drawn = uniforms([r.seed for r in requests], [r.length for r in requests])
        u = torch.from_numpy(drawn).to(logits.device)[:, None]
        ids = truncated(probs, requests, u) if any(p.truncates for p in params) else inverse_cdf(probs, u)
        if any(greedy):
            best = logits.argmax(-1, keepdim=True)
            ids = torch.where(torch.tensor(greedy, device=ids.device)[:, None], best, ids)
    logprobs = probs.gather(1, ids.clamp(max=probs.shape[1] - 1)).log()
    both = torch.cat([ids.double(), logprobs.double()], dim=1).tolist()  # one transfer from the device
    return [int(i) for i, _ in both], [p for _, p in both], probs
