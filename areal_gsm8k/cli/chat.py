"""`gsm8k chat`: talk to one model, or to several side by side, and see how the grader judges them.

gsm8k chat runs/tiny-grpo/20261121_101500
gsm8k chat start=runs/.start_models/tiny-seed1 grpo=runs/tiny-grpo/20261121_101500 --grade
echo "/q 17" | gsm8k chat Qwen/Qwen2.5-0.5B-Instruct --grade
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from areal_gsm8k.cli.evaluate import EngineName, Format, SplitName

if TYPE_CHECKING:
    from areal_gsm8k.chat.session import Session


def chat(
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="[NAME=]MODEL", help="Run directory (its best, else last checkpoint), model folder or hub id."
        ),
    ],
    # the rows of /q
    data: Annotated[
        str | None,
        typer.Option(
            metavar="SOURCE", help="As for eval; by default the rows of the first run named, else openai/gsm8k."
        ),
    ] = None,
    split: Annotated[SplitName, typer.Option(help="A session that opens test is logged.")] = SplitName.dev,
    grade: Annotated[bool, typer.Option("--grade", help="Show the verdict under each reply to /q.")] = False,
    # prompt and sampling
    answer_format: Annotated[
        Format | None, typer.Option(help="How the model is asked; by default as the first run named was, else boxed.")
    ] = None,
    system_prompt: Annotated[str | None, typer.Option(help="System message; by default that of the run.")] = None,
    temperature: Annotated[float, typer.Option(min=0.0, help="0: greedy.")] = 0.0,
    max_new_tokens: Annotated[
        int | None, typer.Option(min=1, help="Longest reply, tokens; by default that of the run, else 512.")
    ] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, max=2**31 - 1, help="Of sampling; by default another reply every time.")
    ] = None,
    # the engine
    engine: Annotated[
        EngineName, typer.Option(help="auto: embedded on a CPU, sglang where it is installed with a GPU, else hf.")
    ] = EngineName.auto,
    url: Annotated[str | None, typer.Option(help="Ask the SGLang or vLLM server there; start none.")] = None,
) -> None:
    """Ask models questions; their replies stream side by side. /help, once inside, lists the commands.

    Without a terminal every line of standard input is a question or a command, and exit code 1 says that one failed.
    """
    from tempfile import TemporaryDirectory

    from rich.console import Console

    from areal_gsm8k.chat.chat_model import named
    from areal_gsm8k.chat.rows import reader
    from areal_gsm8k.chat.session import Session
    from areal_gsm8k.chat.trained_with import TrainingPrompt, asked_in_training
    from areal_gsm8k.chat.view import TerminalView
    from areal_gsm8k.evaluation import EvaluationError, EvaluationSettings

    interactive = sys.stdin.isatty() and sys.stdout.isatty()
    view = TerminalView(Console(), Console(stderr=not interactive))
    try:
        if url and len(models) > 1:
            raise EvaluationError(f"--url serves one model, and {len(models)} were named; give one")
        chat_models = named(models)
        trained = [asked_in_training(chat_model.model) for chat_model in chat_models]
        asked = next(filter(None, trained), TrainingPrompt())
        settings = EvaluationSettings(
            answer_format=answer_format.value if answer_format else asked.answer_format,
            system_prompt=asked.system_prompt if system_prompt is None else system_prompt or None,
            temperature=temperature,
            max_new_tokens=max_new_tokens or asked.max_new_tokens,
            engine=engine.value,
            url=url,
            batch_size=1,
        )
        for chat_model, own in zip(chat_models, trained, strict=True):
            if own and own.answer_format != settings.answer_format:
                view.note(
                    f"{chat_model.name} was trained with format {own.answer_format}; all get {settings.answer_format}"
                )
        rows = reader(data or asked.data, split.value, asked.data_seed, ", ".join(models), view.note)
        with TemporaryDirectory(prefix="gsm8k-chat-") as logs:
            failed = _converse(Session(chat_models, settings, view, rows, Path(logs), grade, seed), interactive)
    except (ValueError, OSError) as error:  # EvaluationError and DataError are ValueErrors
        view.error(f"error: {error}")
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
    raise typer.Exit(int(failed))


def _converse(session: Session, interactive: bool) -> bool:
    """Whether the conversation failed: no model could be loaded, or something went wrong where nobody watched."""
    from areal_gsm8k.chat import repl

    try:
        session.open()
        if all(chat_model.trouble for chat_model in session.chat_models):
            return True
        if not interactive:
            repl.read_lines(session, sys.stdin)
            return session.failed
        session.view.note(f"Type a question, or /help. {repl.HOW_TO_LEAVE}")
        repl.prompted(session, repl.history())
        return False
    finally:
        session.close()
