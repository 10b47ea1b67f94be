"""One model of a chat: its name in the conversation, and the engine that speaks for it."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from areal_gsm8k.chat.reply import Reply
from areal_gsm8k.children import ChildDied
from areal_gsm8k.data import prompts
from areal_gsm8k.evaluation import EvaluationError, EvaluationSettings, engines
from areal_gsm8k.evaluation.engine import Answer, CompletionEngine, CompletionRequest
from areal_gsm8k.evaluation.model import Model, find

NOT_LOADED = "it is not loaded; /engine NAME loads it"


class ChatModel:
    """Attributes: name, model; trouble: why there is no engine, None once there is one."""

    def __init__(self, name: str, model: Model):
        self.name, self.model = name, model
        self.engine: CompletionEngine | None = None
        self.trouble: str | None = NOT_LOADED
        self._closing = ExitStack()

    def open(self, kind: str, settings: EvaluationSettings, log: Path) -> None:
        """Close the engine there is and open another; when that fails, `trouble` says why."""
        self.close()
        try:
            _ = self.model.tokenizer  # a folder without one is refused before a server is started
            self.engine = self._closing.enter_context(engines.opened(kind, self.model, settings, log))
            self.trouble = None
        except (EvaluationError, ChildDied, TimeoutError, OSError) as failure:
            self.trouble = str(failure)

    def close(self) -> None:
        self.engine, self.trouble = None, NOT_LOADED
        self._closing.close()

    async def answer(self, question: str, settings: EvaluationSettings, seed: int, raw: bool, reply: Reply) -> None:
        """Write the answer into `reply` as it comes. Any failure is the reply's own; the other models go on."""
        if self.engine is None:
            return reply.end(Answer(error=self.trouble))
        self.engine.settings = settings
        try:
            ids = self._prompt(question, settings, raw)
            room = self.model.room(len(ids), settings.max_new_tokens)
            if not ids or room < 1:
                reason = f"a prompt of {len(ids)} tokens, and the model's context has {self.model.context_length}"
                return reply.end(Answer(error=reason))
            reply.end(await self.engine.stream(CompletionRequest(0, 0, ids, room, seed), reply.grow))
        except ChildDied as death:
            reply.end(Answer(error=f"{death}\n/engine {settings.engine} starts it again."))
        except Exception as failure:  # a chat template that refuses a system message, a model with a bug
            reply.end(Answer(error=f"{type(failure).__name__}: {failure}"))

    def _prompt(self, question: str, settings: EvaluationSettings, raw: bool) -> list[int]:
        if raw:
            return prompts.text_ids(self.model.tokenizer, question)
        return prompts.prompt_ids(self.model.tokenizer, question, settings.answer_format, settings.system_prompt)


def named(arguments: list[str]) -> list[ChatModel]:
    """Models from `[NAME=]MODEL`; without NAME the last part of MODEL, or all of it where that is not unique.

    Raises EvaluationError for a model that is not there.
    """
    parts = [("", "", typed) if Path(typed).expanduser().exists() else typed.rpartition("=") for typed in arguments]
    short = [name or Path(model).expanduser().absolute().name for name, _, model in parts]
    return [
        ChatModel(name or (last if short.count(last) == 1 else model), find(model))
        for (name, _, model), last in zip(parts, short, strict=True)
    ]
