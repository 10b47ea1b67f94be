"""`gsm8k compare`: one table of models and runs on identical items, with intervals and a paired test.

gsm8k compare base=runs/evaluations/base sft=runs/evaluations/sft grpo=runs/evaluations/grpo --out runs/comparison
gsm8k compare runs/tiny-grpo/20261121_101500
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from areal_gsm8k.cli import text


def compare(
    evaluated: Annotated[
        list[str],
        typer.Argument(
            metavar="[NAME=]RUN_OR_MODEL...",
            help="Folders that `gsm8k eval` wrote, and GRPO runs (start and end); all are held to the first.",
        ),
    ],
    out: Annotated[
        Path | None, typer.Option(help="Also write comparison.md, comparison.json and comparison.png to this folder.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the bootstrap.")] = 0,
) -> None:
    """Compare models on the same items: accuracy strict and lenient, format, length, training time, differences.

    It refuses to compare what was measured on other items, or with another prompt, grader or decoding.
    """
    import json

    from rich.console import Console

    from areal_gsm8k.report import comparison, comparison_table, graded
    from areal_gsm8k.runs.files import write_atomically

    console = Console()
    with text.errors_told(graded.GradedError, OSError):
        compared = comparison.compare([model for argument in evaluated for model in graded.read(argument)], seed)
        if out is not None:
            write_atomically(out / "comparison.md", comparison_table.markdown(compared))
            write_atomically(out / "comparison.json", json.dumps(compared, indent=2, ensure_ascii=False) + "\n")
            comparison_table.draw(compared, out / "comparison.png")
    console.print(comparison_table.table(compared), highlight=False)
    if out is not None:
        console.print(f"Written to {out}: comparison.md, comparison.json, comparison.png", highlight=False)
