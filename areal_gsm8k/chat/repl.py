"""The two ways into a session: a prompt with history and completion, or the lines of a pipe."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from prompt_toolkit import PromptSession
from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.document import Document
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.key_binding import KeyBindings

from areal_gsm8k.chat.commands import COMMANDS
from areal_gsm8k.chat.session import Session

HOW_TO_LEAVE = "Ctrl-D or /quit leaves."


def read_lines(session: Session, lines: Iterable[str]) -> None:
    """Handle each line that is not blank, until the end or /quit; the line is shown above its reply."""
    for line in (line.rstrip("\r\n") for line in lines):
        if line.strip():
            session.view.say(f"> {line}")
            if not session.handle(line):
                return


def prompted(session: Session, history: History) -> None:
    """Handle typed lines until Ctrl-D or /quit. Enter sends; Alt-Enter, or Esc and then Enter, begins a new line."""
    prompt = PromptSession(
        "> ",
        multiline=True,
        prompt_continuation="  ",
        history=history,
        completer=CommandCompleter(),
        key_bindings=_keys(),
        bottom_toolbar=lambda: _toolbar(session),
    )
    while True:
        try:
            line = prompt.prompt()
        except KeyboardInterrupt:
            if not prompt.default_buffer.text:
                session.view.note(HOW_TO_LEAVE)
            continue
        except EOFError:
            return
        with suppress(KeyboardInterrupt):  # stops the replies, not the conversation
            if line.strip() and not session.handle(line):
                return


def _toolbar(session: Session) -> str:
    """The settings that fit on a line, without what /settings says in brackets."""
    values = {name: value.partition(" (")[0] for name, value in session.values().items() if name != "system"}
    return "  ".join(f"{name} {value}" for name, value in values.items())


def _keys() -> KeyBindings:
    keys = KeyBindings()

    @keys.add("enter")
    def send(event) -> None:
        event.current_buffer.validate_and_handle()

    @keys.add("escape", "enter")
    def new_line(event) -> None:
        event.current_buffer.insert_text("\n")

    return keys


class CommandCompleter(Completer):
    """The names of commands behind a "/" at the beginning, and the values of those that take few."""

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterator[Completion]:
        typed = document.text_before_cursor
        if not typed.startswith("/") or "\n" in typed:
            return
        name, space, value = typed[1:].partition(" ")
        if not space:
            for command in COMMANDS.values():
                if command.name.startswith(name):
                    yield Completion(command.name, start_position=-len(name), display_meta=command.does)
        elif name in COMMANDS:
            for choice in COMMANDS[name].choices:
                if choice.startswith(value):
                    yield Completion(choice, start_position=-len(value))


def history() -> History:
    """The lines of earlier chats, in the user's state folder; where that cannot be written, of this chat alone."""
    if sys.platform == "win32":
        state = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    else:
        state = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state")
    file = state / "areal-gsm8k" / "chat_history"
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        file.open("a").close()
    except OSError:
        return InMemoryHistory()
    return FileHistory(str(file))
