"""Replies on the screen: side by side in a wide terminal, one under the other in a narrow one and without a terminal.

While replies grow only the last lines that fit are drawn, so the picture never scrolls; complete replies are printed
whole.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

from rich import box
from rich.console import Console, ConsoleOptions, Group, RenderResult
from rich.live import Live
from rich.table import Table
from rich.text import Text

from areal_gsm8k.chat.reply import Reply
from areal_gsm8k.grading.explanation import explained
from areal_gsm8k.terminal_safe import printable

NARROWEST = 32  # columns of the terminal for each model; with fewer they stand one under the other
REDRAWN = 12  # times a second
COLUMN_LINES = 6  # of a table that are not text: names, rules, outcome, and one that stays free
STACK_LINES = 3  # of a model in a stack: name, outcome, an empty line
STYLES = {"complete": "dim", "failed": "red", "stopped": "yellow"}


class Tail:
    """The last lines of a text as wide as there is room."""

    def __init__(self, text: Text, lines: int):
        self.text, self.lines = text, lines

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield from self.text.wrap(console, options.max_width, overflow="fold")[-self.lines :]


class TerminalView:
    """console: for replies and answers to commands; notes: for all else, which has no place in a script's output."""

    def __init__(self, console: Console, notes: Console):
        self.console, self.notes = console, notes

    def say(self, text: str) -> None:
        self.console.print(_text(text), soft_wrap=True)

    def note(self, text: str) -> None:
        self.notes.print(_text(text), soft_wrap=True)

    def error(self, text: str) -> None:
        self.notes.print(_text(text, "red"), soft_wrap=True)

    def following(self, replies: list[Reply]) -> AbstractContextManager:
        if not self.console.is_terminal:
            return nullcontext()
        return self._live(replies)

    @contextmanager
    def _live(self, replies: list[Reply]) -> Iterator[None]:
        def draw():
            return self._columns(replies, live=True) if self._wide(replies) else self._stack(replies)

        with (
            unechoed(),
            Live(get_renderable=draw, console=self.console, refresh_per_second=REDRAWN, transient=True),
        ):
            yield

    def show(self, replies: list[Reply]) -> None:
        if self._wide(replies):
            self.console.print(self._columns(replies))
        else:
            for reply in replies:
                self.console.print(
                    _text(reply.name, "bold"), _text(reply.text), *_below(reply), sep="\n", soft_wrap=True
                )
                self.console.print()
        for reply in replies:
            if reply.error and len(reply.error.splitlines()) > 1:
                self.error(f"{reply.name}: {reply.error}")

    def _wide(self, replies: list[Reply]) -> bool:
        return self.console.is_terminal and len(replies) > 1 and self.console.width // len(replies) >= NARROWEST

    def _columns(self, replies: list[Reply], live: bool = False) -> Table:
        table = Table(box=box.MINIMAL, expand=True)
        for reply in replies:
            table.add_column(_text(reply.name), ratio=1, overflow="fold")
        lines = max(1, self.console.height - COLUMN_LINES)
        table.add_row(*(Tail(_text(reply.text), lines) if live else _text(reply.text) for reply in replies))
        table.add_row(*(Group(*_below(reply)) for reply in replies))
        return table

    def _stack(self, replies: list[Reply]) -> Group:
        """Growing replies, in equal parts of the screen."""
        lines = max(1, (self.console.height - 1) // len(replies) - STACK_LINES)
        parts = []
        for reply in replies:
            parts += [_text(reply.name, "bold"), Tail(_text(reply.text), lines), *_below(reply), Text()]
        return Group(*parts)


def _below(reply: Reply) -> list[Text]:
    """Outcome and verdict of a reply, a line each."""
    lines = [_text(reply.outcome, STYLES.get(reply.state, "dim"))]
    if reply.verdict is not None:
        for label, text in explained(reply.verdict).items():
            judged = {"verdict": "green" if reply.verdict.lenient else "red"}.get(label, "")
            lines.append(_text(f"{label:<10} {text}", judged))
    return lines


def _text(text: str, style: str = "") -> Text:
    """Text in which neither rich's markup nor a terminal's sequences mean anything."""
    return Text(printable(text), style=style, overflow="fold")


@contextmanager
def unechoed() -> Iterator[None]:
    """Keep what is typed from appearing among the replies; the next prompt gets it. Only where there is termios."""
    try:
        import termios

        before = termios.tcgetattr(0)
    except (ImportError, termios.error):  # Windows; no terminal to type at
        yield
        return
    silent = [*before]
    silent[3] &= ~termios.ECHO  # of the local modes
    termios.tcsetattr(0, termios.TCSADRAIN, silent)
    try:
        yield
    finally:
        termios.tcsetattr(0, termios.TCSADRAIN, before)
