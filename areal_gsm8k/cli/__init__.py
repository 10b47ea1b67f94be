"""The command line: `gsm8k <verb>`, one file a verb. Heavy imports wait until a verb runs."""

import typer

from areal_gsm8k.cli import data, train

app = typer.Typer(no_args_is_help=True, add_completion=False, help="GRPO on grade-school maths with AReaL.")
app.command("train", context_settings={"allow_extra_args": False})(train.train)
app.add_typer(data.app, name="data")


def main() -> None:
    app()
