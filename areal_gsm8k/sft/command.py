"""The command line that train_local_simple.py and train_hf_trainer.py share: two trainers, everything else the same.

    main = command.command(loop.train, "a plain PyTorch loop")

The command reads the problems, loads the model, prepares --output-dir and hands over to the trainer. The results in
--output-dir are model/ (Hugging Face format), train_log.jsonl (one object an update), summary.json, settings.json (the
first settings of the training) and, until the training is finished, recovery/. It needs neither AReaL nor SGLang nor a
POSIX system.
"""

from __future__ import annotations

import json
import shlex
import shutil
import sys
from collections.abc import Callable
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from areal_gsm8k.data.hub import hub_or_cache, is_hub_id
from areal_gsm8k.data.problems import DataError, checksum, load_problems
from areal_gsm8k.data.prompts import FORMATS, prompt_hash
from areal_gsm8k.grading.parser import GRADER_VERSION
from areal_gsm8k.runs.files import append_lines, read_lines, to_lines, write_atomically
from areal_gsm8k.sft import loop

Format = StrEnum("Format", {name: name for name in FORMATS})
Device = StrEnum("Device", {name: name for name in ("auto", "cpu", "cuda", "mps")})
Dtype = StrEnum("Dtype", {name: name for name in loop.DTYPES})
MAY_CHANGE = ("max_time", "device", "checkpoint_steps")  # between a training and its --resume


def command(train: Callable[..., dict], method: str) -> Callable[..., None]:
    """A typer command that fine-tunes with `train`: a function with the parameters and result of `loop.train`."""

    def main(
        # what is trained
        model: Annotated[str, typer.Option(help="Hugging Face id or folder of the model to start from.")],
        output_dir: Annotated[Path, typer.Option(help="Folder to write to; new or empty, unless --resume.")],
        data: Annotated[
            str, typer.Option(help="openai/gsm8k, a folder, a .jsonl or .parquet file, or generated.")
        ] = "openai/gsm8k",
        answer_format: Annotated[Format, typer.Option(help="How the solution is to end.")] = Format.boxed,
        limit: Annotated[int | None, typer.Option(min=1, help="Use only the first so many problems.")] = None,
        max_length: Annotated[
            int, typer.Option(min=2, help="Longest prompt and solution, tokens; longer ones are left out.")
        ] = 1024,
        # how long
        epochs: Annotated[float, typer.Option(min=0.0, help="Passes over the data.")] = 1.0,
        max_steps: Annotated[int | None, typer.Option(min=1, help="Weight updates; wins over --epochs.")] = None,
        max_time: Annotated[
            float | None, typer.Option(min=0.0, help="Stop after so many seconds of training, and save.")
        ] = None,
        # how
        batch_size: Annotated[int, typer.Option(min=1, help="Sequences in one forward pass.")] = 8,
        gradient_accumulation_steps: Annotated[int, typer.Option(min=1, help="Forward passes in one update.")] = 1,
        lr: Annotated[
            float, typer.Option(min=0.0, help="Highest learning rate; warm-up, then cosine to a tenth.")
        ] = 1e-5,
        device: Annotated[Device, typer.Option(help="auto takes cuda, then mps, then cpu.")] = Device.auto,
        dtype: Annotated[
            Dtype,
            typer.Option(help="Of products. auto: bfloat16 on GPUs made for it, else float32; CPUs may have it too."),
        ] = Dtype.auto,
        seed: Annotated[int, typer.Option(help="Decides the order of the problems.")] = 0,
        # what is kept
        resume: Annotated[
            bool,
            typer.Option("--resume", help="Go on with what was interrupted in --output-dir: same command, plus this."),
        ] = False,
        checkpoint_steps: Annotated[
            int, typer.Option(min=1, help="Updates between two recovery points, for --resume.")
        ] = 100,
        overwrite: Annotated[
            bool, typer.Option("--overwrite", help="Delete what an earlier training left in --output-dir.")
        ] = False,
        wandb: Annotated[bool, typer.Option("--wandb", help="Log to Weights & Biases as well.")] = False,
    ) -> None:
        settings = loop.SFTSettings(
            lr=lr,
            epochs=epochs,
            max_steps=max_steps,
            max_time=max_time,
            batch_size=batch_size,
            gradient_accumulation_steps=gradient_accumulation_steps,
            device=device.value,
            dtype=dtype.value,
            seed=seed,
            checkpoint_steps=checkpoint_steps,
        )
        try:
            prepare_folder(output_dir, overwrite, resume)
            problems = load_problems(data, "train", limit, seed=seed)
            facts = {
                "method": method,
                "model": model,
                "data": data,
                "data_checksum": checksum(problems),
                "format": answer_format.value,
                "prompt_hash": prompt_hash(answer_format.value),
                "max_length": max_length,
                "settings": asdict(settings),
            }
            report = tracker(facts) if wandb else None
            weights, tokenizer = load_model(model)
            examples = loop.encode(tokenizer, problems, answer_format.value, max_length)
            left_out = len(problems) - len(examples)
            check_settings(output_dir / "settings.json", facts, resume)
            print(f"{len(examples):,} problems from {data}, {left_out:,} left out as longer than {max_length} tokens")
            log = StepLog(output_dir / "train_log.jsonl")
            with ProgressLine() as progress:

                def on_step(event: dict) -> None:
                    log.add(event)
                    progress.show(event)
                    if report is not None:
                        report.log(event, step=event["step"])

                summary = train(weights, tokenizer, examples, settings, on_step, output_dir)
        except (DataError, ValueError, OSError, ImportError) as error:
            sys.exit(f"error: {error}")
        except KeyboardInterrupt:
            sys.exit("interrupted; the same command with --resume goes on from the last recovery point")
        folder = loop.save(weights, tokenizer, output_dir / "model")
        typed = {"grader": GRADER_VERSION, "examples": len(examples), "left_out": left_out, "command": command_line()}
        summary |= facts | typed
        write_atomically(output_dir / "summary.json", json.dumps(summary, indent=2, ensure_ascii=False) + "\n")
        if summary["stop_reason"] == loop.ALL_DONE:
            shutil.rmtree(output_dir / "recovery", ignore_errors=True)
        if report is not None:
            report.finish()
        steps = f"{summary['steps']} of {summary['total_steps']} steps"
        print(f"{steps} in {summary['seconds']:.0f} s: {summary['stop_reason']}")
        print(f"model: {folder}")
        if summary["failed"]:
            sys.exit("error: the training failed; the model saved is that of the last finite step")

    main.__doc__ = f"Fine-tune a causal language model on worked solutions with {method}."
    return main


def prepare_folder(folder: Path, overwrite: bool, resume: bool) -> None:
    """Make the output folder, or check that it holds a training to go on with.

    Raises DataError when the folder is not empty and neither flag is set, and when it holds no training to go on with.
    """
    if resume:
        if overwrite:
            raise DataError("--resume goes on with what is there and --overwrite deletes it; give one of them")
        if not (folder / "settings.json").exists():
            raise DataError(f"--output-dir {folder} holds no training to resume; leave --resume out to begin one")
        summary = folder / "summary.json"
        if summary.exists() and json.loads(summary.read_text(encoding="utf-8"))["stop_reason"] == loop.ALL_DONE:
            raise DataError(f"the training in {folder} is finished: the model is {folder / 'model'}")
        return
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        if not overwrite:
            raise DataError(
                f"--output-dir {folder} is not empty; choose another, add --overwrite, or --resume to go on with it"
            )
        for name in ("train_log.jsonl", "summary.json", "settings.json"):
            (folder / name).unlink(missing_ok=True)
        for name in ("model", "recovery"):
            shutil.rmtree(folder / name, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)


def check_settings(file: Path, facts: dict, resume: bool) -> None:
    """Write down the settings of a new training; on --resume raise DataError when they are not those written down."""
    facts = json.loads(json.dumps(facts))  # tuples become lists, as in the file
    if not resume:
        write_atomically(file, json.dumps(facts, indent=2, ensure_ascii=False) + "\n")
        return
    begun = json.loads(file.read_text(encoding="utf-8"))
    begun, here = begun | begun.pop("settings"), facts | facts.pop("settings")
    for name, value in here.items():
        if begun.get(name) != value and name not in MAY_CHANGE:
            raise DataError(
                f"--resume: {name} is {value!r}, but the training in {file.parent} was begun with "
                f"{begun.get(name)!r}; give that again, or begin anew in another --output-dir"
            )


def load_model(name: str):
    """Model in float32 and tokenizer, from a folder or the hub. Raises DataError when one of them cannot be loaded."""
    from contextlib import nullcontext

    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    local = Path(name).is_dir()
    if not local and not is_hub_id(name):
        raise DataError(f"--model {name}: no such folder, and not a hub id either (those look like Qwen/Qwen2.5-0.5B)")
    try:
        with nullcontext() if local else hub_or_cache(name, "model"):
            return AutoModelForCausalLM.from_pretrained(name).float(), AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise DataError(f"--model {name}: cannot be loaded as a causal language model ({reason})") from None


def command_line() -> str:
    return shlex.join([Path(sys.executable).name, *sys.argv])


def tracker(facts: dict):
    """A Weights & Biases run. Raises ImportError when wandb is not installed."""
    try:
        import wandb
    except ImportError:
        raise ImportError("--wandb needs the package: pip install wandb") from None
    return wandb.init(project="areal-gsm8k", config=facts)


class StepLog:
    """train_log.jsonl: one line an update. The first new one replaces those that a resumed training does again."""

    def __init__(self, path: Path):
        self.path, self.begun = path, False

    def add(self, event: dict) -> None:
        if not self.begun:
            kept = [row for row in read_lines(self.path)[0] if row["step"] < event["step"]]
            write_atomically(self.path, to_lines(kept))
            self.begun = True
        append_lines(self.path, [event], sync=False)


class ProgressLine:
    """A rich bar on a terminal, about twenty plain lines elsewhere."""

    def __enter__(self) -> ProgressLine:
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar

        columns = ("step {task.completed:.0f}/{task.total:.0f}", "{task.fields[figures]}")
        self.bar = Bar(TextColumn(columns[0]), BarColumn(), TextColumn(columns[1]), TimeRemainingColumn())
        self.live = Console().is_terminal
        if self.live:
            self.bar.start()
            self.task = self.bar.add_task("sft", figures="", total=None)
        return self

    def show(self, event: dict) -> None:
        rate = event["tokens"] / max(event["seconds"], 1e-9)
        figures = f"loss {event['loss']:.3f}  lr {event['lr']:.1e}  {rate:,.0f} solution tokens/s"
        if self.live:
            self.bar.update(self.task, completed=event["step"], total=event["total"], figures=figures)
        elif event["step"] in (1, event["total"]) or event["step"] % max(1, event["total"] // 20) == 0:
            print(f"step {event['step']}/{event['total']}  {figures}", flush=True)

    def __exit__(self, *_) -> None:
        if self.live:
            self.bar.stop()
