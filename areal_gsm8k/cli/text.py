"""Printing what models wrote, which may be anything: markup, cursor movements, reversed writing, a million characters.

out = text.console()
text.field("completion", row["completion"], out)
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from areal_gsm8k.terminal_safe import printable

if TYPE_CHECKING:
    from rich.console import Console

LONGEST = 4000  # characters shown of one text
LABEL = 12  # characters of a field's name


def console() -> Console:
    """A console that prints texts as they are, and breaks no line: a narrow terminal does that itself."""
    from rich.console import Console

    if hasattr(sys.stdout, "reconfigure"):  # an output that cannot show a letter gets its escape
        sys.stdout.reconfigure(errors="backslashreplace")
    return Console(highlight=False, markup=False, emoji=False, soft_wrap=True)


def shortened(text: str, longest: int = LONGEST) -> str:
    """The text, its middle left out where it has more than `longest` characters."""
    if len(text) <= longest:
        return text
    head, tail = longest * 3 // 4, longest // 4
    return f"{text[:head]}\n[... {len(text) - head - tail:,} characters left out ...]\n{text[-tail:]}"


def field(name: str, text: str, out: Console) -> None:
    """Print a named text; its further lines stand under the first."""
    out.print(f"{name:<{LABEL}}" + printable(shortened(text)).replace("\n", "\n" + " " * LABEL))


def fail(mistake: Exception, out: Console) -> None:
    """Print what went wrong, in one line."""
    out.print(f"error: {printable(str(mistake))}", style="red")
