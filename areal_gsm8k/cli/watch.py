"""`gsm8k watch`: the live view of runs from another shell. It only reads: Ctrl-C ends the view, not the runs.

gsm8k watch runs/tiny-grpo/20261121_101500
gsm8k watch runs/tiny-grpo/*
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

POLL_SECONDS = 0.5


def watch(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN [RUN ...]", help="Run directories; several make one table.")
    ],
) -> None:
    """Follow one run or several until all have ended; a run that has not started yet is waited for."""
    from rich.console import Console

    from areal_gsm8k.runs.run import Run

    for folder in runs:
        if not folder.is_dir():
            typer.echo(f"error: {folder}: no such folder. A run lies in <runs_dir>/<experiment>/<trial>.", err=True)
            raise typer.Exit(1)
    if len({folder.resolve() for folder in runs}) < len(runs):
        typer.echo("error: one run is named twice.", err=True)
        raise typer.Exit(1)
    console, followed = Console(), [Run(folder) for folder in runs]
    try:
        _follow_one(followed[0], console) if len(runs) == 1 else _follow_all(followed, console)
    except KeyboardInterrupt:
        console.print("No longer watching; the runs go on.", highlight=False)


def _follow_one(run, console) -> None:
    import time

    from areal_gsm8k.watch.live import LiveView

    with LiveView(run, console) as view:
        view.say_where_it_stands()
        while not (how := view.progress.ended()):
            view.update()
            time.sleep(POLL_SECONDS)
        view.update()
    console.print(f"{run.root}: {how}", markup=False, highlight=False, soft_wrap=True)


def _follow_all(runs, console) -> None:
    import time

    from areal_gsm8k.watch.overview import Overview

    with Overview(runs, console) as view:
        while not view.ended():
            time.sleep(POLL_SECONDS)
            view.update()
