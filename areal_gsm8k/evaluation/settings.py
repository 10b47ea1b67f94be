"""The settings of an evaluation: one value object, from the command line's options or from other code.

EvaluationSettings(answer_format="hash", k=4, temperature=1.0)
"""

from __future__ import annotations

from dataclasses import dataclass

from areal_gsm8k.data.prompts import answer_format_named

ENGINES = ("auto", "hf", "embedded", "sglang", "vllm")
DTYPES = ("auto", "float32", "bfloat16", "float16")


class EvaluationError(ValueError):
    """An evaluation that cannot start or go on; the message names the fault and the remedy."""


@dataclass(frozen=True)
class EvaluationSettings:
    """Everything an evaluation depends on besides the model and the items. Raises EvaluationError on nonsense."""

    answer_format: str = "boxed"  # a name of prompts.FORMATS
    system_prompt: str | None = None  # before every question; None for no system message
    k: int = 1  # completions an item
    temperature: float = 0.0  # 0: greedy
    max_new_tokens: int = 512  # longest completion, tokens
    seed: int = 0  # of sampling; greedy completions do not depend on it
    engine: str = "auto"  # one of ENGINES
    url: str | None = None  # a server that runs already; then nothing is started
    dtype: str = "auto"  # of weights and arithmetic; auto: float32 on a CPU, the model's own on a GPU
    batch_size: int = 64  # completions under way at once

    def __post_init__(self):
        try:
            answer_format_named(self.answer_format)
        except ValueError as error:
            raise EvaluationError(str(error)) from None
        if self.engine not in ENGINES:
            raise EvaluationError(f"engine is {self.engine!r}; it must be one of {', '.join(ENGINES)}")
        if self.dtype not in DTYPES:
            raise EvaluationError(f"dtype is {self.dtype!r}; it must be one of {', '.join(DTYPES)}")
        if self.url and self.dtype != "auto":
            raise EvaluationError(f"url names a server, which has its dtype already; leave dtype={self.dtype} out")
        if self.url and self.engine == "hf":
            raise EvaluationError(
                "url names a server, and the engine hf asks none; use sglang or vllm, or leave url out"
            )
        if not 0.0 <= self.temperature < float("inf"):
            raise EvaluationError(f"temperature is {self.temperature}; it must be 0 (greedy) or more")
        for name in ("k", "max_new_tokens", "batch_size"):
            if getattr(self, name) < 1:
                raise EvaluationError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if self.k > 1 and self.temperature == 0:
            raise EvaluationError(
                f"k={self.k} at temperature 0 would be {self.k} times the same completion; raise temperature"
            )
