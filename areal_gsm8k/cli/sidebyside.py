"""`gsm8k sidebyside`: SFT and GRPO from one start, for equal wall time, on the same items; ends in one table.

gsm8k sidebyside                                   # the tiny recipe, about 17 minutes on 2 cores
gsm8k sidebyside --config configs/my.yaml actor.path=Qwen/Qwen2.5-0.5B-Instruct
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def sidebyside(
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Settings of the GRPO run, as for train.")
    ] = None,
    config: Annotated[list[Path] | None, typer.Option(help="Overlay of train_grpo.yaml; may be repeated.")] = None,
    out: Annotated[Path, typer.Option(help="Folder for all of it; the same command goes on where it stopped.")] = Path(
        "runs/sidebyside"
    ),
    sft_lr: Annotated[float, typer.Option(min=0.0, help="Highest learning rate of both SFT baselines.")] = 1e-3,
) -> None:
    """Train GRPO, then SFT baselines for as long, from the same model; compare all on the same dev rows.

    With the tiny model the SFT data are two controls: the noisy corpus it was made from, which GRPO should beat, and as
    many right solutions as that corpus holds, which should beat GRPO. With another model: the training rows' solutions.
    """
    from areal_gsm8k.config.schema import ConfigError
    from areal_gsm8k.launch.sidebyside import StageFailed, run

    try:
        run(config or [], overrides or [], out, sft_lr)
    except ConfigError as mistake:
        typer.echo(f"Cannot start: {mistake}")
        raise typer.Exit(2) from None
    except StageFailed as failure:
        typer.echo(str(failure))
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        typer.echo(f"Stopped by Ctrl-C; the same command goes on from {out}.")
        raise typer.Exit(130) from None
