"""`gsm8k recipes`: the list of recipes, and the changes that a combination of them makes.

gsm8k recipes
gsm8k recipes show qwen2.5-1.5b dapo 24gb
"""

from typing import Annotated

import typer

from areal_gsm8k.cli import text

app = typer.Typer(help="Overlays for models, algorithms, rewards, back ends and machines.")

NAMES = (".experiment_name", "fileroot", "nfs_record_root")  # AReaL wants the run's name there, in every section
ENOUGH_GPUS = 1024  # `show` explains a configuration for any machine, however many GPUs it needs


@app.callback(invoke_without_command=True)
def recipes(context: typer.Context) -> None:
    """List the recipes by kind. `show NAME ...` explains some of them together."""
    if context.invoked_subcommand:
        return
    from areal_gsm8k.config.recipes import all_recipes

    kind = None
    for recipe in all_recipes():
        if recipe.kind != kind:
            kind = recipe.kind
            typer.echo(f"{kind}:")
        typer.echo(f"  {recipe.name:28}{recipe.title}")
    typer.echo("To combine them: gsm8k recipes show llama-3.2-1b dr_grpo 24gb")
    typer.echo("On the tiny model, without a GPU: gsm8k recipes show cpu dr_grpo")


@app.command()
def show(names: Annotated[list[str], typer.Argument(metavar="NAME", help="For example qwen2.5-1.5b dapo 24gb.")]):
    """The heads of these recipes, what they change together, and the command to type."""
    from areal_gsm8k.config import recipes
    from areal_gsm8k.config.compose import make_plan
    from areal_gsm8k.config.schema import ConfigError

    with text.errors_told(recipes.RecipeError, ConfigError, code=2, stderr=True):
        chosen = [recipes.read(recipes.find(name)) for name in names]
        files = [recipe.path for recipe in chosen]
        base, plan = (make_plan(some, ["trial_name=shown"], ENOUGH_GPUS) for some in ([], files))
    for recipe in chosen:
        typer.echo(f"{recipe.kind}/{recipe.name}")
        for line in recipe.head:
            typer.echo(f"  {line}")
    typer.echo("Changed, from the base:")
    for key, (before, after) in recipes.differences(base.values, plan.values).items():
        if key.endswith(NAMES):
            continue
        typer.echo(f"  {key}: {_short(before)} -> {_short(after)}")
    for setters, keys in recipes.set_twice(files).items():
        typer.echo(f"Set by {', then '.join(setters)}, and the last wins: {', '.join(keys)}")
    typer.echo(recipes.command(files))


def _short(value: object) -> str:
    """A value on one line; a section is named, not written out."""
    if isinstance(value, dict):
        return f"a section of {len(value)} keys"
    return "null" if value is None else str(value)
