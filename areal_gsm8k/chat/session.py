"""A conversation: the questions, the models and the settings. A session knows neither the keyboard nor the screen.

Every question stands alone, as in training: GSM8K's prompts have a single turn, so no reply is part of a later prompt.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from areal_gsm8k.chat.chat_model import ChatModel
from areal_gsm8k.chat.commands import COMMANDS, CommandError, number, parse
from areal_gsm8k.chat.reply import Reply
from areal_gsm8k.evaluation import EvaluationSettings, engines
from areal_gsm8k.evaluation.items import Items

LARGEST_SEED = 2**31 - 1
ABOUT = """A line is a question, asked as in training. Each stands alone: no model sees what was said before.
Alt-Enter, or Esc and Enter, begins another line. Ctrl-C stops the replies."""


class View(Protocol):
    """Where a session shows things; chat/view.py is the terminal's."""

    def say(self, text: str) -> None:
        """Show the answer to a command, or a question."""

    def note(self, text: str) -> None:
        """Show progress, which has no place in a file of replies."""

    def error(self, text: str) -> None: ...

    def following(self, replies: list[Reply]) -> AbstractContextManager:
        """While the block runs, show the replies as they grow."""

    def show(self, replies: list[Reply]) -> None:
        """Show the replies whole, with their verdicts."""


class Session:
    """Models, settings, and the question asked last. failed: whether anything went wrong, for the exit code."""

    def __init__(
        self,
        chat_models: list[ChatModel],
        settings: EvaluationSettings,
        view: View,
        load_items: Callable[[], Items],
        logs: Path,
        grade: bool = False,
        seed: int | None = None,
    ):
        """load_items: reads the rows of /q, at the first /q. logs: a folder for the servers' logs."""
        self.chat_models, self.settings, self.view = chat_models, settings, view
        self.load_items, self.logs = load_items, logs
        self.grade, self.seed, self.raw = grade, seed, False
        self.kind = settings.engine  # what "auto" means is known when the engines are opened
        self.items: Items | None = None
        self.replies: list[Reply] = []  # to the question asked last
        self.reference: str | None = None  # of that question, where it was a row
        self.failed = False

    def open(self) -> None:
        """Open every model's engine, one after the other; a failure is shown, and that model stays without."""
        self.kind = engines.choose(self.settings)
        engines.check_installed(self.kind, self.settings)
        for chat_model in self.chat_models:  # all before the first opens: two engines may not fit into memory
            chat_model.close()
        for place, chat_model in enumerate(self.chat_models):
            self.view.note(f"loading {chat_model.name}: {chat_model.model.folder}, engine {self.kind}")
            chat_model.open(self.kind, self.settings, self.logs / f"{place}-{chat_model.model.slug}.log")
            if chat_model.trouble:
                self._error(f"{chat_model.name}: {chat_model.trouble}")

    def close(self) -> None:
        for chat_model in self.chat_models:
            chat_model.close()

    def handle(self, line: str) -> bool:
        """Answer a question or obey a command; False when it was /quit. Raises KeyboardInterrupt, after the replies so
        far are shown."""
        try:
            if not line.startswith("/"):
                self.ask(line if self.raw else line.strip())
                return True
            command, argument = parse(line.rstrip())
            if command.name == "quit":
                return False
            getattr(self, f"_{command.name}")(argument)
        except (ValueError, OSError) as failure:  # EvaluationError, DataError and CommandError are ValueErrors
            self._error(str(failure))
        return True

    def ask(self, question: str, reference: str | None = None) -> None:
        """Put a question to all models at once and show their replies, graded where there is a reference to show."""
        self.replies, self.reference = [Reply(chat_model.name) for chat_model in self.chat_models], reference
        stopped = False
        with self.view.following(self.replies):
            try:
                asyncio.run(self._answers(question))
            except KeyboardInterrupt:
                stopped = True
        for reply in self.replies:
            reply.stop()
            if reference is not None and self.grade:
                reply.grade(reference, self.settings.answer_format)
        self.failed |= any(reply.error for reply in self.replies)
        self.view.show(self.replies)
        if stopped:
            raise KeyboardInterrupt

    async def _answers(self, question: str) -> None:
        await asyncio.gather(
            *(
                chat_model.answer(question, self.settings, self._draw(), self.raw, reply)
                for chat_model, reply in zip(self.chat_models, self.replies, strict=True)
            )
        )

    def _draw(self) -> int:
        return random.randint(0, LARGEST_SEED) if self.seed is None else self.seed

    def _error(self, text: str) -> None:
        self.failed = True
        self.view.error(text)

    # -- commands ------------------------------------------------------------------------------------------------------

    def _q(self, argument: str) -> None:
        if self.items is None:
            self.items = self.load_items()
        rows = self.items.rows
        row = next((row for row in rows if row["id"] == argument), None)
        if row is None:
            if not argument.isdecimal() or int(argument) >= len(rows):
                raise CommandError(
                    f"row is {argument!r}; it must be 0 to {len(rows) - 1}, or an id such as {rows[0]['id']}"
                )
            row = rows[int(argument)]
        self.view.say(f"{row['id']}: {row['question']}")
        self.ask(row["question"], row["answer"])

    def _answer(self, argument: str) -> None:
        reference = argument or self.reference
        if not self.replies:
            raise CommandError("ask a question first: /answer grades the replies to the one asked last")
        if reference is None:
            raise CommandError("answer is empty; a question that was typed needs its answer here: /answer 42")
        for reply in self.replies:
            reply.grade(reference, self.settings.answer_format)
        self.view.show(self.replies)

    def _grade(self, argument: str) -> None:
        self.grade = argument == "on"
        self._say("grade")

    def _raw(self, argument: str) -> None:
        self.raw = argument == "on"
        self._say("raw")

    def _system(self, argument: str) -> None:
        self._set("system", system_prompt=argument or None)

    def _format(self, argument: str) -> None:
        self._set("format", answer_format=argument)

    def _temperature(self, argument: str) -> None:
        self._set("temperature", temperature=number("temperature", argument, float, "a number, 0 (greedy) or more"))

    def _max(self, argument: str) -> None:
        self._set("max", max_new_tokens=number("max", argument, int, "a whole number of tokens, at least 1"))

    def _seed(self, argument: str) -> None:
        allowed = f"a whole number from 0 to {LARGEST_SEED}, or off"
        seed = None if argument == "off" else number("seed", argument, int, allowed)
        if seed is not None and not 0 <= seed <= LARGEST_SEED:
            raise CommandError(f"seed is {seed}; it must be {allowed}")
        self.seed = seed
        self._say("seed")

    def _engine(self, argument: str) -> None:
        chosen = replace(self.settings, engine=argument)
        engines.check_installed(engines.choose(chosen), chosen)
        self.settings = chosen
        self.open()

    def _settings(self, argument: str) -> None:
        models = {
            chat_model.name: chat_model.trouble or str(chat_model.model.folder) for chat_model in self.chat_models
        }
        self.view.say(_aligned(self.values() | models))

    def _help(self, argument: str) -> None:
        usage = {f"/{command.name} {command.argument}".strip(): command.does for command in COMMANDS.values()}
        self.view.say(f"{ABOUT}\n{_aligned(usage)}")

    def values(self) -> dict[str, str]:
        """Every setting under the name of its command."""
        settings = self.settings
        return {
            "format": settings.answer_format,
            "system": settings.system_prompt or "none",
            "temperature": f"{settings.temperature:g}" + (" (greedy)" if settings.temperature == 0 else ""),
            "max": f"{settings.max_new_tokens} tokens",
            "seed": "off (another reply every time)" if self.seed is None else str(self.seed),
            "raw": "on (no format, no system message)" if self.raw else "off",
            "grade": "on" if self.grade else "off",
            "engine": self.kind,
        }

    def _set(self, name: str, **changed) -> None:
        self.settings = replace(self.settings, **changed)
        self._say(name)

    def _say(self, name: str) -> None:
        self.view.say(f"{name}: {self.values()[name]}")


def _aligned(lines: dict[str, str]) -> str:
    wide = max(map(len, lines))
    return "\n".join(f"{label:<{wide}}  {text}" for label, text in lines.items())
