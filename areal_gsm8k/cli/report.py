"""`gsm8k report`: one HTML file of one or several runs, for a browser without a network.

gsm8k report runs/tiny-grpo/20261121_101500
gsm8k report runs/tiny-grpo/* --out runs/seeds.html
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run directories; several are drawn together.")],
    out: Annotated[
        Path | None, typer.Option(help="The file; by default RUN/report.html, of several runs runs/report.html.")
    ] = None,
) -> None:
    """Write curves, tables, samples and flips of training runs into one HTML file; prints its path."""
    from rich.console import Console
    from rich.markup import escape

    from areal_gsm8k.runs.run import Run, RunError

    console = Console()
    try:
        from areal_gsm8k.report import page

        file = page.write(runs, out or (Run(runs[0]).report if len(runs) == 1 else Path("runs") / "report.html"))
    except (RunError, OSError) as error:
        console.print(f"[red]error:[/red] {escape(str(error))}", highlight=False, soft_wrap=True)
        raise typer.Exit(1) from None
    console.print(str(file.absolute()), highlight=False, markup=False, soft_wrap=True)
