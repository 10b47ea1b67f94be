"""One generation request from submission to its finish reason, in SGLang's terms."""

from __future__ import annotations

import math
import time
import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .params import SamplingParams
    from .tokenizer import Tokenizer


@dataclass(eq=False, slots=True)
class Request:
    """A prompt, how to answer it, and the answer so far. Lists grow by one entry a token."""

    prompt_ids: list[int]
    params: SamplingParams
    seed: int = 0
    max_new_tokens: int = 128  # params.max_new_tokens, bounded by the context
    stop_ids: frozenset[int] = frozenset()  # stop_token_ids and end-of-sequence ids, empty with ignore_eos
    rid: str = field(default_factory=lambda: uuid.uuid4().hex)
    logprob_start: int | None = None  # prompt logprobs from this position on; None: none
    return_logprob: bool = False  # report logprobs (they are always recorded)
    top_logprobs: int = 0  # alternatives reported for each token
    stream: bool = False
    tokenizer: Tokenizer | None = None  # needed for stop strings only

    output_ids: list[int] = field(default_factory=list)
    output_logprobs: list[float] = field(default_factory=list)
    output_top: list[list] = field(default_factory=list)  # [[logprob, id, None], ...] for each token
    input_logprobs: list[float | None] = field(default_factory=list)  # of prompt_ids[logprob_start:], the first None
    input_top: list[list | None] = field(default_factory=list)
    cached_tokens: int = 0  # prompt tokens whose prefill was shared or reused
    finish_reason: dict[str, Any] | None = None
    weight_version: str = "default"
    created: float = field(default_factory=time.monotonic)
    finished: float = 0.0
    waiter: Any = None  # the future or queue that the caller waits on; the engine never looks at it

    @property
    def length(self) -> int:
        """Prompt and answer so far, in tokens: the position of the next token."""
        return len(self.prompt_ids) + len(self.output_ids)

    def accept(self, token: int, logprob: float) -> bool:
        """Append a token; True when it ends the answer. As in SGLang: length first, then stop ids, then strings."""
        if math.isnan(logprob):
            self.abort("the model produced logits that are not finite: its weights are broken", status_code=500)
            return True
        self.output_ids.append(token)
        self.output_logprobs.append(logprob)
        if len(self.output_ids) >= self.max_new_tokens:
            self.finish_reason = {"type": "length", "length": self.max_new_tokens}
        elif token in self.stop_ids:
            self.finish_reason = {"type": "stop", "matched": token}
        elif self.params.stop and (matched := self._matched_string()):
            self.finish_reason = {"type": "stop", "matched": matched}
        return self.finish_reason is not None

    def _matched_string(self) -> str | None:
        if self.tokenizer is None:  # the engine refuses stop strings then
            return None
        # A token adds at least one byte, so a match that ends in the newest token lies within this tail.
        longest = max(len(s.encode()) for s in self.params.stop)
        tail = self.tokenizer.decode(self.output_ids[-(longest + 1) :], skip_special_tokens=False)
        return next((s for s in self.params.stop if s in tail), None)

    def abort(self, message: str, status_code: int | None = None) -> None:
        """End the answer where it stands. status_code None is an ordinary abort: HTTP 200 with the partial answer."""
        kind = None if status_code is None else "InternalServerError"
        self.finish_reason = {"type": "abort", "message": message, "status_code": status_code, "err_type": kind}

    def text(self, count: int | None = None) -> str:
        """The answer (or its first ``count`` tokens) decoded, without the stop that ended it unless no_stop_trim."""
        if self.tokenizer is None:
            return ""
        ids, matched = self.output_ids[:count], None
        if self.finish_reason and count is None and not self.params.no_stop_trim:
            matched = self.finish_reason.get("matched")
        if isinstance(matched, int):
            ids = ids[:-1]
        text = self.tokenizer.decode(ids, skip_special_tokens=self.params.skip_special_tokens)
        if isinstance(matched, str) and (end := text.find(matched)) >= 0:
            text = text[:end]
        return text
