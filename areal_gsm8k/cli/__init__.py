"""The command line: `gsm8k <verb>`, one file a verb. Heavy imports wait until a verb runs."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from areal_gsm8k import __version__
from areal_gsm8k.cli import (
    band,
    chat,
    compare,
    data,
    doctor,
    evaluate,
    generate,
    grade,
    plan,
    recipes,
    replay,
    report,
    reward,
    samples,
    sidebyside,
    train,
    watch,
)

app = typer.Typer(no_args_is_help=True, add_completion=False)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"areal-gsm8k {__version__}")
        raise typer.Exit()


@app.callback()
def gsm8k(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    """GRPO on grade-school maths with AReaL."""


# train
app.command("train", context_settings={"allow_extra_args": False})(train.train)
app.command("watch")(watch.watch)
app.command("sidebyside")(sidebyside.sidebyside)
app.add_typer(recipes.app, name="recipes")
app.command("plan")(plan.plan)
app.command("doctor")(doctor.doctor)
# measure
app.command("eval")(evaluate.evaluate)
app.command("generate")(generate.generate)
app.command("compare")(compare.compare)
app.command("band")(band.band)
# look
app.command("report")(report.report)
app.command("samples")(samples.samples)
app.command("replay")(replay.replay)
app.command("chat")(chat.chat)
# data and reward
app.add_typer(data.app, name="data")
app.command("grade", context_settings={"ignore_unknown_options": True})(grade.grade)
app.add_typer(reward.app, name="reward")


def main() -> None:
    app()


def start_script(arguments: list[str]) -> None:
    """`train_grpo.py --config ... key=value ...`, typed as a script or through AReaL's launcher: the verb `train`."""
    script, *rest = arguments
    if Path(script).name != "train_grpo.py":
        sys.exit(f"{script}: this launcher starts train_grpo.py only; AReaL's own is areal.infra.launcher.local.")
    app(["train", *rest], prog_name=script)
