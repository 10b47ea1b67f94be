"""Prints the text of models, which may be anything: markup, cursor movements, reversed writing, a million characters.

out = text.console()
text.field("completion", row["completion"], out)
with text.errors_told(ValueError, OSError): ...
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import typer

from areal_gsm8k.terminal_safe import printable

if TYPE_CHECKING:
    from rich.console import Console

LONGEST = 4000  # characters shown of one text
LABEL = 12  # characters of a field's name


def console(stderr: bool = False) -> Console:
    """A console that prints texts as they are, and breaks no line: a narrow terminal breaks lines itself."""
    from rich.console import Console

    if hasattr(sys.stdout, "reconfigure"):  # an output that cannot show a letter gets the letter's escape
        sys.stdout.reconfigure(errors="backslashreplace")
    return Console(stderr=stderr, highlight=False, markup=False, emoji=False, soft_wrap=True)


def shortened(text: str, longest: int = LONGEST) -> str:
    """The text, its middle left out where it has more than `longest` characters."""
    if len(text) <= longest:
        return text
    head, tail = longest * 3 // 4, longest // 4
    return f"{text[:head]}\n[... {len(text) - head - tail:,} characters left out ...]\n{text[-tail:]}"


def field(name: str, text: str, out: Console) -> None:
    """Print a named text; its further lines stand under the first."""
    out.print(f"{name:<{LABEL}}" + printable(shortened(text)).replace("\n", "\n" + " " * LABEL))


@contextmanager
def errors_told(*kinds: type[Exception], code: int = 1, stderr: bool = False) -> Iterator[None]:
    """Within the block, an error of these kinds is printed in one line, and the command ends with this exit code."""
    try:
        yield
    except kinds as mistake:
        console(stderr).print(f"error: {printable(str(mistake))}", style="red")
        raise typer.Exit(code) from None
