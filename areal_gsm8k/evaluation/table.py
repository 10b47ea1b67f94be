"""The table at the end of `gsm8k eval`: one row a model, rates with their 95 % intervals.

Fits a terminal of 80 columns; long names are folded.
"""

from __future__ import annotations

from rich.box import SIMPLE_HEAD
from rich.table import Table

from areal_gsm8k.evaluation.card import Card
from areal_gsm8k.statistics import in_per_cent


def table(cards: list[Card]) -> Table:
    """One row a card; the title says what they have in common."""
    first = cards[0]
    decoding = "greedy" if first.temperature == 0 else f"temperature {first.temperature:g}"
    title = f"{first.n:,} {first.split} rows of {first.data}{_subset(first)}, {decoding}"
    view = Table(title=title, box=SIMPLE_HEAD, collapse_padding=True, pad_edge=False)
    view.add_column("model", overflow="fold")
    columns = ["accuracy", "strict", "format"] if first.accuracy is not None else []
    if first.accuracy is not None and first.k > 1:
        columns.append(f"pass@{first.k}")
    columns += ["trunc.", "tokens", "tok/s", *(["errors"] if any(card.errors for card in cards) else [])]
    for column in columns:
        view.add_column(column, justify="right", no_wrap=True)
    for card in cards:
        shown = {
            "accuracy": _with_interval(card, "accuracy"),
            "strict": _with_interval(card, "accuracy_strict"),
            "format": _percent(card.format_rate),
            f"pass@{card.k}": _with_interval(card, f"pass_at_{card.k}"),
            "trunc.": _percent(card.truncated),
            "tokens": "-" if card.completion_tokens is None else f"{card.completion_tokens:,.0f}",
            "tok/s": "-" if card.tokens_per_second is None else f"{card.tokens_per_second:,.0f}",
            "errors": str(card.errors),
        }
        name = card.model + (f"\n{card.checkpoint}" if card.checkpoint else "")
        view.add_row(name, *(shown[column] for column in columns))
    return view


def _subset(card: Card) -> str:
    return f" ({card.subset})" if card.subset else ""


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.1%}"


def _with_interval(card: Card, name: str) -> str:
    """52.4%, and its bounds on the line below."""
    if name not in card.intervals:
        return "-"
    value = card.pass_at_k[str(card.k)] if name.startswith("pass_at_") else getattr(card, name)
    return f"{value:.1%}\n{in_per_cent(*card.intervals[name])}"
