"""`gsm8k report`: one HTML file of one or several runs, for a browser without a network.

gsm8k report runs/tiny-grpo/20261121_101500
gsm8k report runs/tiny-grpo/* --out runs/seeds.html
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from areal_gsm8k.cli import text


def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run directories; several are drawn together.")],
    out: Annotated[
        Path | None, typer.Option(help="The file; by default RUN/report.html, of several runs runs/report.html.")
    ] = None,
) -> None:
    """Write curves, tables, samples and flips of training runs into one HTML file; prints its path."""
    from areal_gsm8k.report import page
    from areal_gsm8k.runs.run import Run, RunError

    with text.errors_told(RunError, OSError):
        file = page.write(runs, out or (Run(runs[0]).report if len(runs) == 1 else Path("runs") / "report.html"))
    text.console().print(str(file.absolute()))
