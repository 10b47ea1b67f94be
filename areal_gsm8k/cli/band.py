"""`gsm8k band`: record what a recipe's reward usually looks like, from finished runs of several seeds.

gsm8k band runs/tiny-grpo/seed1 runs/tiny-grpo/seed2 runs/tiny-grpo/seed3 --out configs/bands/cpu.json
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from areal_gsm8k.cli import text


def band(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN RUN ...", help="Finished runs of one recipe, 2 or more.")],
    out: Annotated[Path, typer.Option(help="The file; a recipe names it with expected_band=FILE.")],
    hardware: Annotated[str | None, typer.Option(help="What the runs were made on; default: this machine.")] = None,
) -> None:
    """Record the expected band of a recipe: the range of the training reward, and of its gain, over several runs."""
    import os
    import platform

    from areal_gsm8k.runs.run import Run, RunError
    from areal_gsm8k.watch import band

    hardware = hardware or f"{os.cpu_count()} cores, {platform.machine()}, {platform.system()}"
    with text.errors_told(band.BandError, RunError, OSError, stderr=True):
        recorded = band.record([Run(folder) for folder in runs], hardware)
        recorded.write(out)
    seeds = ", ".join(str(seed) for seed in recorded.facts["seeds"])
    typer.echo(
        f"{out}: {recorded.runs} runs (seeds {seeds}), steps {recorded.steps[0]} to {recorded.steps[-1]}; reward "
        f"{recorded.low[-1]:.2f} to {recorded.high[-1]:.2f} after the last."
    )
