"""`gsm8k eval`: how good are these models, on the same items, with the same prompt and grader?

gsm8k eval Qwen/Qwen2.5-0.5B-Instruct runs/gsm8k-grpo/1 --split test --subset first500
gsm8k eval runs/tiny-grpo/20261121_101500 --data generated --answer-format hash --max-new-tokens 48
"""

from __future__ import annotations

import shlex
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from areal_gsm8k.data.prompts import FORMATS
from areal_gsm8k.evaluation.settings import DTYPES, ENGINES

if TYPE_CHECKING:
    from areal_gsm8k.evaluation import Card, Evaluation

EngineName = StrEnum("EngineName", {name: name for name in ENGINES})
DtypeName = StrEnum("DtypeName", {name: name for name in DTYPES})
Format = StrEnum("Format", {name: name for name in FORMATS})
SplitName = StrEnum("SplitName", {name: name for name in ("train", "dev", "test")})


def evaluate(
    models: Annotated[
        list[str],
        typer.Argument(metavar="MODEL", help="Run directory (its best, else last checkpoint), model folder or hub id."),
    ],
    # the items
    data: Annotated[
        str, typer.Option(metavar="SOURCE", help="openai/gsm8k, a folder, a .jsonl or .parquet file, or generated.")
    ] = "openai/gsm8k",
    split: Annotated[SplitName, typer.Option(help="Every opening of test is logged.")] = SplitName.dev,
    n: Annotated[int | None, typer.Option(min=1, help="Only the first so many rows.")] = None,
    subset: Annotated[str | None, typer.Option(help="first500: the rows of many published tables.")] = None,
    # prompt and sampling
    answer_format: Annotated[Format, typer.Option(help="How the model is asked to answer.")] = Format.boxed,
    system_prompt: Annotated[str | None, typer.Option(help="System message before every question.")] = None,
    k: Annotated[int, typer.Option(min=1, help="Completions a question; more than one needs a temperature.")] = 1,
    temperature: Annotated[float, typer.Option(min=0.0, help="0: greedy.")] = 0.0,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest completion, tokens.")] = 512,
    seed: Annotated[int, typer.Option(help="Of sampling, and of generated problems.")] = 0,
    # the engine
    engine: Annotated[
        EngineName, typer.Option(help="auto: embedded on a CPU, sglang where it is installed with a GPU, else hf.")
    ] = EngineName.auto,
    url: Annotated[str | None, typer.Option(help="Ask the SGLang or vLLM server there; start none.")] = None,
    dtype: Annotated[
        DtypeName, typer.Option(help="auto: float32 on a CPU, where bfloat16 may be faster; the model's own on a GPU.")
    ] = DtypeName.auto,
    batch_size: Annotated[int, typer.Option(min=1, help="Completions under way at once.")] = 64,
    # the output
    output_dir: Annotated[
        Path | None,
        typer.Option(
            help="Each model gets a folder in it; by default in runs/evaluations, and one for each set of settings."
        ),
    ] = None,
) -> None:
    """Accuracy of models on GSM8K, with intervals, and a card that says how it was measured.

    Writes completions.jsonl (every completion with its verdict) and evaluation.json (the card). Interrupted, the same
    command goes on where it stopped.
    """
    run(graded=True, **locals())


def run(
    graded: bool,
    models: list[str],
    data: str,
    split: str,
    n: int | None,
    subset: str | None,
    seed: int,
    url: str | None,
    output_dir: Path | None,
    **asked,
) -> None:
    """Run `gsm8k eval` or `gsm8k generate`: model after model, then one table."""
    from rich.console import Console

    from areal_gsm8k.children import ChildDied
    from areal_gsm8k.evaluation import Evaluation, EvaluationError, EvaluationSettings, items, test_seal
    from areal_gsm8k.evaluation.model import find
    from areal_gsm8k.evaluation.table import table

    console = Console()
    parent = output_dir or Path("runs") / "evaluations"
    test_log = parent.absolute().parent / test_seal.NAME
    cards = []
    try:
        if url and len(models) > 1:
            raise EvaluationError(f"--url serves one model, and {len(models)} were named; give one")
        found = [find(name) for name in models]
        settings = EvaluationSettings(
            seed=seed, url=url, **{key: getattr(value, "value", value) for key, value in asked.items()}
        )
        rows = items.load(data, str(split), n, subset, seed)
        for model in found:
            evaluation = Evaluation(model, rows, settings, graded)
            folder = parent / (model.slug if output_dir else evaluation.folder_name)
            cards.append(_one(evaluation, folder, test_log, console))
    except (EvaluationError, ChildDied, TimeoutError, OSError, ValueError) as error:
        console.print(f"[red]error:[/red] {_plain(error)}", highlight=False, soft_wrap=True)
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        console.print("interrupted; the same command goes on from here")
        raise typer.Exit(130) from None
    console.print(table(cards))
    for card in cards:
        for reason, times in card.error_reasons.items():
            console.print(f"[red]{card.model}: {times} without a verdict:[/red] {_plain(reason)}", highlight=False)
    if cards[-1].test_openings is not None:
        console.print(f"This test split has been opened {cards[-1].test_openings} times ({test_log}).", highlight=False)
    if all(card.errors == card.n * card.k for card in cards):
        raise typer.Exit(1)


def _one(evaluation: Evaluation, folder: Path, test_log: Path, console) -> Card:
    """Evaluate one model under a progress bar; without a terminal, about twenty lines."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    model = evaluation.model
    which = f" ({model.checkpoint})" if model.checkpoint else ""
    console.print(
        f"{model.name}{which}: {len(evaluation.items.rows):,} {evaluation.items.split} rows, "
        f"engine {evaluation.engine}, files in {folder}",
        highlight=False,
        soft_wrap=True,
    )
    bar = Progress(
        TextColumn("{task.completed:,.0f}/{task.total:,.0f}"),
        BarColumn(),
        TextColumn("{task.fields[figures]}"),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
    )
    task = bar.add_task("", total=len(evaluation.items.rows) * evaluation.settings.k, figures="starting")
    told = 0

    def show(now) -> None:
        nonlocal told
        figures = f"{now.tokens / max(now.seconds, 1e-9):,.0f} tokens/s"
        bar.update(task, completed=now.done, figures=figures)
        if not console.is_terminal and now.done * 20 // now.total > told:
            told = now.done * 20 // now.total
            console.print(f"{now.done:,}/{now.total:,}  {figures}", highlight=False)

    with bar:
        return evaluation.run(folder, test_log, show, shlex.join(["gsm8k", *sys.argv[1:]]))


def _plain(text: object) -> str:
    """Text for rich's console that holds no markup."""
    from rich.markup import escape

    return escape(str(text))
