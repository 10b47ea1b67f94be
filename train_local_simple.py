"""Supervised fine-tuning in plain PyTorch: the simplest baseline, and the code that warms the tiny model up.

    python train_local_simple.py --model Qwen/Qwen2.5-0.5B-Instruct --output-dir runs/sft --max-time 600
    python train_local_simple.py --model MODEL --data generated --answer-format hash --output-dir runs/sft

Only the solutions are learnt, never the questions. Writes into --output-dir: model/ (Hugging Face format),
train_log.jsonl (one object an update) and summary.json. Imports neither AReaL nor SGLang; the loop itself is in
areal_gsm8k/sft.py.
"""

from __future__ import annotations

import json
import shlex
import shutil
import sys
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from areal_gsm8k import sft
from areal_gsm8k.data import DataError, checksum, load_problems
from areal_gsm8k.hub import hub_or_cache, is_hub_id
from areal_gsm8k.prompts import FORMATS, prompt_hash
from areal_gsm8k.runs import append_lines, write_atomically

Format = StrEnum("Format", {name: name for name in FORMATS})
Device = StrEnum("Device", {name: name for name in ("auto", "cpu", "cuda", "mps")})


def main(
    # what is trained
    model: Annotated[str, typer.Option(help="Hugging Face id or folder of the model to start from.")],
    output_dir: Annotated[Path, typer.Option(help="Folder to write to; must be new or empty.")],
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
    lr: Annotated[float, typer.Option(min=0.0, help="Highest learning rate; warm-up, then cosine to a tenth.")] = 1e-5,
    device: Annotated[
        Device, typer.Option(help="auto takes cuda, then mps, then cpu. bf16 on cuda, else float32.")
    ] = Device.auto,
    seed: Annotated[int, typer.Option(help="Decides the order of the problems.")] = 0,
    # what is kept
    overwrite: Annotated[bool, typer.Option(help="Delete what an earlier training left in --output-dir.")] = False,
    wandb: Annotated[bool, typer.Option("--wandb", help="Log to Weights & Biases as well.")] = False,
) -> None:
    """Fine-tune a causal language model on worked solutions with one plain PyTorch loop."""
    settings = sft.SFTSettings(
        lr=lr,
        epochs=epochs,
        max_steps=max_steps,
        max_time=max_time,
        batch_size=batch_size,
        gradient_accumulation_steps=gradient_accumulation_steps,
        device=device.value,
        seed=seed,
    )
    try:
        prepare_folder(output_dir, overwrite)
        report = tracker(settings, model, data) if wandb else None
        problems = load_problems(data, "train", limit, seed=seed)
        weights, tokenizer = load_model(model)
        examples = sft.encode(tokenizer, problems, answer_format.value, max_length)
        left_out = len(problems) - len(examples)
        print(f"{len(examples):,} problems from {data}, {left_out:,} left out as longer than {max_length} tokens")
        with Progress() as progress:

            def on_step(event: dict) -> None:
                append_lines(output_dir / "train_log.jsonl", [event], sync=False)
                progress.show(event)
                if report is not None:
                    report.log(event, step=event["step"])

            summary = sft.train(weights, tokenizer, examples, settings, on_step)
    except (DataError, ValueError, OSError, ImportError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(f"interrupted: {output_dir}/train_log.jsonl holds the steps done; no model was saved")
    folder = sft.save(weights, tokenizer, output_dir / "model")
    summary |= {
        "model": model,
        "data": data,
        "data_checksum": checksum(problems),
        "examples": len(examples),
        "left_out": left_out,
        "format": answer_format.value,
        "prompt_hash": prompt_hash(answer_format.value),
        "settings": asdict(settings),
        "command": shlex.join([Path(sys.executable).name, *sys.argv]),
    }
    write_atomically(output_dir / "summary.json", json.dumps(summary, indent=2, ensure_ascii=False) + "\n")
    if report is not None:
        report.finish()
    print(
        f"{summary['steps']} of {summary['total_steps']} steps in {summary['seconds']:.0f} s: {summary['stop_reason']}"
    )
    print(f"model: {folder}")
    if summary["failed"]:
        sys.exit("error: the training failed; the model saved is that of the last finite step")


def prepare_folder(folder: Path, overwrite: bool) -> None:
    """Make the output folder. Raises DataError when it holds something and `overwrite` is not set."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        if not overwrite:
            raise DataError(f"--output-dir {folder} is not empty; choose another, or add --overwrite")
        for name in ("train_log.jsonl", "summary.json"):
            (folder / name).unlink(missing_ok=True)
        shutil.rmtree(folder / "model", ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)


def load_model(name: str):
    """Model in float32 and tokenizer, from a folder or the hub. Raises DataError when they cannot be had."""
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


def tracker(settings: sft.SFTSettings, model: str, data: str):
    """A Weights & Biases run. Raises ImportError when wandb is not installed."""
    try:
        import wandb
    except ImportError:
        raise ImportError("--wandb needs the package: pip install wandb") from None
    return wandb.init(project="areal-gsm8k", config=asdict(settings) | {"model": model, "data": data})


class Progress:
    """A rich bar on a terminal, about twenty plain lines elsewhere."""

    def __enter__(self) -> Progress:
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


if __name__ == "__main__":
    typer.run(main)
