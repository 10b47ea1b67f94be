"""`gsm8k train`: GRPO through AReaL on whatever this machine has.

./run train
./run train --config configs/cpu.yaml seed=2 actor.lr=1e-4
./run train --resume runs/tiny-grpo/20261121_101500
"""

from pathlib import Path
from typing import Annotated

import typer


def train(
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Settings that win over every file.")
    ] = None,
    config: Annotated[
        list[Path] | None, typer.Option(help="Overlay of train_grpo.yaml; may be repeated, later wins.")
    ] = None,
    resume: Annotated[
        Path | None,
        typer.Option(metavar="RUN", help="Go on with the run in this folder, from its newest recovery point."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Write the resolved configuration and start nothing.")
    ] = False,
) -> None:
    """Train with GRPO. Without --config: what suits this machine's GPUs; without one the CPU recipe, a tiny model."""
    from areal_gsm8k.launch import train

    raise typer.Exit(train.train(config or [], overrides or [], dry_run, resume))
