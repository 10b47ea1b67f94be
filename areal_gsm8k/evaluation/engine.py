"""The interface of an engine, which turns prompts into completions; engines.py has the choice among them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from areal_gsm8k.evaluation.settings import EvaluationSettings


@dataclass(frozen=True)
class CompletionRequest:
    """One completion to generate. prompt_ids: token ids. seed: of its sampling, where the engine can use it."""

    row: int  # index into the items
    sample: int  # 0 to k - 1
    prompt_ids: list[int]
    max_new_tokens: int
    seed: int


@dataclass(frozen=True)
class Answer:
    """The result of a request: text and its tokens (end-of-sequence included), or the reason why there is none."""

    text: str | None = None
    tokens: int = 0
    truncated: bool = False
    error: str | None = None


Deliver = Callable[[list[tuple[CompletionRequest, Answer]]], None]


class CompletionEngine(Protocol):
    settings: EvaluationSettings  # those of sampling may be replaced between calls

    def answer(self, requests: list[CompletionRequest], deliver: Deliver) -> None:
        """Answer every request, delivering answers as they come, in any order.

        Raises EvaluationError or ChildDied when it cannot go on; the delivered answers stay.
        """

    async def stream(self, request: CompletionRequest, tell: Callable[[str], None]) -> Answer:
        """Answer one request and tell the whole text so far, from any thread, whenever there is more of it.

        A cancelled call makes the model stop. Raises ChildDied when a server that was started here has died.
        """
