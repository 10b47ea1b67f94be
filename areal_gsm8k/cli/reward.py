"""`gsm8k reward attack`: how much reward do completions get that deserve none?

gsm8k reward attack
gsm8k reward attack --reward accuracy=1,format=0.2
gsm8k reward attack --reward my_module:my_fn
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import typer

from areal_gsm8k.cli import text

app = typer.Typer(help="Examine rewards.", no_args_is_help=True)


@app.callback()
def reward() -> None:
    """Examine rewards."""


@app.command()
def attack(
    reward: Annotated[
        str,
        typer.Option(
            help="A convention (ours, strict-hash, strict-boxed, tags, last-number, math-verify), weights "
            "(accuracy=1,format=0.2), or a function of your own (module:function)."
        ),
    ] = "ours",
    answer_format: Annotated[str | None, typer.Option(help="boxed, tags or hash, for the format part.")] = None,
    seconds: Annotated[float, typer.Option(help="Time-out of your own function.")] = 10.0,
) -> None:
    """Run the adversarial suite against a reward and print what was paid.

    Exit code 0 when nothing was paid and nothing failed, 1 otherwise.
    """
    from rich.console import Console
    from rich.table import Table

    from areal_gsm8k.grading.attacks import run

    console = Console(soft_wrap=True)
    close = None
    try:
        with text.errors_told(ValueError, RuntimeError):
            score, close = resolve(reward, answer_format, seconds)
            results = list(run(score))
    finally:
        if close:
            close()
    table = Table("family", "attacks", "paid", "failed", "slowest, ms", title=f"--reward {reward}")
    for family in dict.fromkeys(paid.attack.family for paid in results):
        of_family = [paid for paid in results if paid.attack.family == family]
        paid, failed = (sum(map(test, of_family)) for test in (_paid, _failed))
        slowest = max(one.seconds for one in of_family) * 1000
        table.add_row(family, str(len(of_family)), str(paid), str(failed), f"{slowest:.1f}")
    console.print(table)
    for one in results:
        if _paid(one) or _failed(one):
            said = one.error if _failed(one) else f"paid {one.reward:g}"
            console.print(f"{one.attack.family}: {one.attack.what}: {said[:200]}", highlight=False, markup=False)
    paid, failed = (sum(map(test, results)) for test in (_paid, _failed))
    console.print(f"{len(results)} attacks: {paid} paid, {failed} failed", highlight=False)
    raise typer.Exit(int(paid + failed > 0))


def _paid(one) -> bool:
    return one.reward is not None and one.reward > 0


def _failed(one) -> bool:
    return one.error is not None


def resolve(spec: str, answer_format: str | None, seconds: float) -> tuple[Callable, Callable | None]:
    """(a function from an attack to its reward, a function to call at the end). Raises ValueError, RewardError."""
    from areal_gsm8k.grading import parser
    from areal_gsm8k.grading.attacks import GOLD, QUESTION
    from areal_gsm8k.grading.custom_reward import RewardProcesses
    from areal_gsm8k.grading.other_graders import CONVENTIONS
    from areal_gsm8k.grading.rewards import Reward, Sample
    from areal_gsm8k.settings import RewardSettings

    if spec in CONVENTIONS:
        return lambda attack: float(CONVENTIONS[spec](attack.completion, GOLD)), None
    if "=" in spec:
        composed = Reward(RewardSettings(**{"accuracy": 0.0} | _weights(spec)))

        def weighed(attack) -> float:
            verdict = parser.grade(attack.completion, GOLD, answer_format)
            sample = Sample(attack.completion, verdict, tokens=len(attack.completion) // 4)
            return composed.total(composed.parts(sample))

        return weighed, None
    if ":" in spec:
        processes = RewardProcesses(spec, seconds, count=1)
        row = {"question": QUESTION, "answer": GOLD, "id": "attack"}
        return lambda attack: processes.score(QUESTION, attack.completion, [], [], row), processes.close
    raise ValueError(
        f"--reward {spec}: no such convention; there are {', '.join(CONVENTIONS)}, weights such as "
        "accuracy=1,format=0.2, and module:function"
    )


def _weights(spec: str) -> dict[str, float]:
    from areal_gsm8k.grading.rewards import WEIGHTED

    weights = {}
    for item in spec.split(","):
        name, _, weight = (part.strip() for part in item.partition("="))
        try:
            weights[name] = float(weight)
        except ValueError:
            raise ValueError(f"--reward {item}: {weight!r} is no number") from None
        if name not in WEIGHTED:
            raise ValueError(f"--reward {item}: no part {name!r}; there are {', '.join(WEIGHTED)}")
    return weights
