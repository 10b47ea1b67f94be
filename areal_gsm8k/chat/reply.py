"""One model's reply to one question, from its first token to the verdict on it."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from areal_gsm8k.evaluation.engine import Answer
from areal_gsm8k.grading import parser


@dataclass
class Reply:
    """The session writes it while it comes, and the view reads it at any time."""

    name: str  # the model's
    text: str = ""
    tokens: int = 0
    truncated: bool = False
    error: str | None = None  # why the reply ends here; the first line is for the column
    state: str = "waiting"  # then writing; at the end complete, failed or stopped
    seconds: float = 0.0
    verdict: parser.Verdict | None = None
    started: float = field(default_factory=time.monotonic)

    def grow(self, text: str) -> None:
        self.state = "writing"
        self.text = text.rstrip("\ufffd")  # the beginning of a character whose end is in the next token

    def end(self, answer: Answer) -> None:
        self.seconds = time.monotonic() - self.started
        if answer.error is not None:
            self.state, self.error = "failed", answer.error
        else:
            self.state, self.text = "complete", answer.text
            self.tokens, self.truncated = answer.tokens, answer.truncated

    def stop(self) -> None:
        """The user stopped it; without effect once it is complete."""
        if self.state in ("waiting", "writing"):
            self.state = "stopped"

    def grade(self, reference: str, answer_format: str) -> None:
        """Only a complete reply is graded: half of one is nobody's answer."""
        if self.state == "complete":
            self.verdict = parser.grade(self.text, reference, answer_format)

    @property
    def outcome(self) -> str:
        """One line: how it ended, or that it has not."""
        if self.state == "failed":
            return "failed: " + self.error.strip().partition("\n")[0]
        if self.state != "complete":
            return {"waiting": "...", "writing": "...", "stopped": "stopped"}[self.state]
        cut = ", cut off" if self.truncated else ""
        return f"{self.tokens:,} tokens{cut}, {self.seconds:.1f} s"
