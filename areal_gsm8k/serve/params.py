"""The sampling options of a request: SGLang's `sampling_params` (sglang/srt/sampling/sampling_params.py), checked."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

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

    # Computed once, because every token needs them.
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
    def parse(cls, given: dict[str, Any] | None) -> SamplingParams:
        """From the JSON of a request. Raises ValueError that names the key."""
        if given is not None and not isinstance(given, dict):
            raise ValueError(f"sampling_params must be an object, got {type(given).__name__}")
        values: dict[str, Any] = {k: v for k, v in (given or {}).items() if v is not None or k == "max_new_tokens"}
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
