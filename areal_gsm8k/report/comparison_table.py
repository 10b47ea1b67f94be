"""A comparison (report/comparison.py) for people: terminal table, Markdown and picture of one content."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from areal_gsm8k.runs.files import replacing
from areal_gsm8k.statistics import in_per_cent

if TYPE_CHECKING:
    from rich.console import Group

HEADERS = (
    "model",
    "strict",
    "lenient",
    "format",
    "tokens",
    "training",
    "strict - first",
    "lenient - first",
    "of strict: format / arithmetic",
)
EXPLANATION = (
    "Intervals 95 %; differences in points with bootstrap interval, exact McNemar p and items gained / lost; "
    "the last column divides the strict difference (report/gain_split.py)."
)


FIGURES, DIFFERENCES = range(6), (0, 6, 7, 8)  # columns of the terminal's two tables: one would be too wide


def table(compared: dict) -> Group:
    """For the terminal: every model's figures above their intervals, then its differences from the first."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    tables = []
    for columns, heading in ((FIGURES, title(compared)), (DIFFERENCES, f"against {compared['first']}")):
        models = compared["models"][columns is DIFFERENCES :]
        view = Table(title=Text(heading), title_justify="left", box=SIMPLE_HEAD, show_lines=True)
        for at in columns:
            view.add_column(HEADERS[at], justify="right" if at else "left", overflow="fold")
        for model in models:
            lines = cells(model)
            view.add_row(*(Text("\n".join(lines[at])) for at in columns))
        tables += [view] if models else []
    return Group(*tables, *map(Text, (EXPLANATION, *compared["notes"])))


def markdown(compared: dict) -> str:
    """The same table for a README or a report."""
    lines = [f"**{title(compared)}**", "", _row(HEADERS), _row(["---", *["---:"] * (len(HEADERS) - 1)])]
    lines += [_row("<br>".join(lines).replace("|", r"\|") for lines in cells(model)) for model in compared["models"]]
    return "\n".join([*lines, "", EXPLANATION, *(f"\n{note}" for note in compared["notes"])]) + "\n"


def title(compared: dict) -> str:
    known = compared["conditions"]
    parts = [f"{compared['items']:,} {known.get('split', '')} problems".replace("  ", " ")]
    if compared["samples"] > 1:
        parts.append(f"{compared['samples']} completions each")
    if "temperature" in known:
        parts.append("greedy" if known["temperature"] == 0 else f"temperature {known['temperature']:g}")
    if "max_new_tokens" in known:
        parts.append(f"at most {known['max_new_tokens']} tokens")
    for key, label in (("prompt_hash", "prompt"), ("grader_version", "grader")):
        if key in known:
            parts.append(f"{label} {known[key]}")
    return ", ".join(parts)


def draw(compared: dict, file: Path) -> Path:
    """Write the picture: accuracies with intervals, and what the strict differences from the first are made of."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    models = compared["models"]
    height = 1.6 + 0.55 * len(models)
    figure, (left, right) = plt.subplots(1, 2, figsize=(13, height), sharey=True, constrained_layout=True)
    for offset, key, label in ((-0.12, "accuracy_strict", "strict"), (0.12, "accuracy", "lenient")):
        values = [100 * model[key]["value"] for model in models]
        errors = _error_bars([model[key] for model in models], "value")
        left.errorbar(values, [at + offset for at in range(len(models))], xerr=errors, fmt="o", capsize=3, label=label)
    left.set(title="accuracy, %", xlim=(0, 100), yticks=range(len(models)))
    left.set_yticklabels([model["name"] for model in models])
    left.invert_yaxis()
    others = [(at, model["against_first"]) for at, model in enumerate(models) if "against_first" in model]
    if others:
        places, against = zip(*others, strict=True)
        _stacked(right, places, [one["gain_split"] for one in against])
        strict = [one["accuracy_strict"] for one in against]
        totals = [100 * one["difference"] for one in strict]
        right.errorbar(
            totals, places, xerr=_error_bars(strict, "difference"), fmt="ko", capsize=3, label="strict difference"
        )
        right.legend(fontsize="small")
    right.axvline(0, color="black", linewidth=0.8)
    right.set(title=f"points against {compared['first']}")
    left.legend(fontsize="small")
    figure.suptitle(title(compared), fontsize="medium")
    with replacing(file) as out:
        figure.savefig(out, dpi=110, format="png")
    plt.close(figure)
    return file


def _stacked(axis, places: tuple[int, ...], splits: list[dict]) -> None:
    """Bars of the two parts; parts of one sign stack up, of opposite signs they go apart from zero."""
    ends = {1: [0.0] * len(splits), -1: [0.0] * len(splits)}
    for part in ("format", "arithmetic"):
        widths = [100 * split[part] for split in splits]
        starts = [ends[1 if width >= 0 else -1][at] for at, width in enumerate(widths)]
        for at, width in enumerate(widths):
            ends[1 if width >= 0 else -1][at] += width
        axis.barh(places, widths, left=starts, height=0.5, alpha=0.6, label=part)


def _error_bars(figures: list[dict], centre: str) -> list[list[float]]:
    """Distances below and above each figure, in points, as matplotlib wants them: (2, figures)."""
    return [
        [100 * max(0.0, one[centre] - one["low"]) for one in figures],
        [100 * max(0.0, one["high"] - one[centre]) for one in figures],
    ]


def cells(model: dict) -> list[list[str]]:
    """A model's row: the lines of each cell."""
    seconds, tokens = model["training_seconds"], model["completion_tokens"]
    cells = [
        [model["name"]],
        *(_share(model[key]) for key in ("accuracy_strict", "accuracy")),
        [f"{model['format_rate']:.1%}"],
        ["-" if tokens is None else f"{tokens:.0f}"],
        ["-" if seconds is None else f"{seconds:,.0f} s"],
    ]
    against = model.get("against_first")
    if against is None:
        return [*cells, ["-"], ["-"], ["-"]]
    split = against["gain_split"]
    cells += [_difference(against[key]) for key in ("accuracy_strict", "accuracy")]
    return [*cells, [f"{100 * split['format']:+.1f} / {100 * split['arithmetic']:+.1f}"]]


def _share(figure: dict) -> list[str]:
    return [f"{figure['value']:.1%}", in_per_cent(figure["low"], figure["high"])]


def _difference(figure: dict) -> list[str]:
    lines = [
        f"{100 * figure['difference']:+.1f}",
        in_per_cent(figure["low"], figure["high"], sign="+"),
        f"{figure['gained']} / {figure['lost']}",
    ]
    if figure["p"] is not None:
        lines.insert(2, "p < 0.0001" if figure["p"] < 0.0001 else f"p = {figure['p']:.4f}")
    return lines


def _row(cells) -> str:
    return "| " + " | ".join(cells) + " |"
