"""The stages of `gsm8k sidebyside`: each is a command that a person could type, and each runs once.

    <out>/grpo/<experiment>/grpo/      the GRPO run
    <out>/sft-*/                       the SFT trainings, each for at most GRPO's training time
    <out>/evaluations/                 every model on the same dev rows
    <out>/comparison.md, .json, .png   the table

A stage whose result exists is skipped, so the same command goes on where an interrupted call stopped.
"""

import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from areal_gsm8k.config import compose, defaults
from areal_gsm8k.config.compose import Plan
from areal_gsm8k.data import generator
from areal_gsm8k.machine import nvidia
from areal_gsm8k.paths import PROJECT
from areal_gsm8k.runs.files import to_lines, write_atomically
from areal_gsm8k.runs.run import Run
from areal_gsm8k.sft import tiny

GSM8K = [sys.executable, "-m", "areal_gsm8k"]
UPDATES_A_SECOND = 10  # of SFT on the tiny model; either baseline makes more on one core
SFT_BATCH = 32
TINY_STEPS = 160  # of GRPO on the tiny model, two thirds of its recipe: four trainings then fit 20 minutes


class StageFailed(RuntimeError):
    """A command of a stage ended badly; the message names it."""


@dataclass(frozen=True)
class Baseline:
    name: str
    script: str
    data: str


def run(config_files: list[Path], overrides: list[str], out: Path, sft_lr: float) -> None:
    """All stages. Raises ConfigError before anything is started, StageFailed when a command fails."""
    gpus = len(nvidia.ours())
    if not config_files:
        config_files, needed, _ = defaults.of_this_machine()
        overrides = [*needed, *overrides]
    ours = [*overrides, f"runs_dir={out / 'grpo'}", "trial_name=grpo"]
    plan = compose.make_plan(config_files, ours, gpus)
    if plan.start_model and not plan.get("total_train_steps"):
        ours.append(f"total_train_steps={TINY_STEPS}")
        plan = compose.make_plan(config_files, ours, gpus)
    grpo = Run(plan.run_dir)
    files = [part for file in config_files for part in ("--config", str(file))]
    typed = ["--resume", str(grpo.root)] if grpo.config.exists() else [*files, *ours]
    _stage("GRPO", grpo.summary, [*GSM8K, "train", *typed])

    start, seconds = plan.get("actor.path"), training_seconds(grpo)
    models = {"start": start}
    for baseline in baselines(plan, out):
        folder = out / baseline.name
        command = [
            sys.executable, str(PROJECT / baseline.script), "--model", start, "--data", baseline.data,
            "--answer-format", plan.get("answer_format"), "--output-dir", str(folder), "--batch-size", str(SFT_BATCH),
            "--lr", str(sft_lr), "--max-time", f"{seconds:.0f}", "--seed", str(plan.get("seed")),
        ]  # fmt: skip
        if plan.start_model:
            command += ["--max-steps", str(round(UPDATES_A_SECOND * seconds))]
        if (folder / "settings.json").exists():
            command.append("--resume")
        _stage(f"{baseline.name}, at most {seconds:.0f} s", folder / "summary.json", command)
        models[baseline.name] = str(folder / "model")
    models["grpo"] = str(grpo.checkpoints / "last")
    compare(plan, models, grpo, out)


def baselines(plan: Plan, out: Path) -> list[Baseline]:
    """The SFT trainings that GRPO is compared with; writes the tiny model's two corpora."""
    simple, hf = "train_local_simple.py", "train_hf_trainer.py"
    if not plan.start_model:
        rows = plan.get("train_dataset.path")
        return [Baseline("sft-simple", simple, rows), Baseline("sft-hf", hf, rows)]
    corpus = generator.noisy_corpus(tiny.TinySettings().corpus_rows, plan.get("seed"))
    files = {"noisy": corpus, "right": [row for row in corpus if row["right"]]}
    for name, rows in files.items():
        keys = ("id", "question", "answer")
        write_atomically(out / f"{name}.jsonl", to_lines({key: row[key] for key in keys} for row in rows))
    return [
        Baseline("sft-simple-noisy", simple, str(out / "noisy.jsonl")),
        Baseline("sft-hf-noisy", hf, str(out / "noisy.jsonl")),
        Baseline("sft-simple-right", simple, str(out / "right.jsonl")),
    ]


def compare(plan: Plan, models: dict[str, str], grpo: Run, out: Path) -> None:
    """Evaluate every model on the run's dev rows, and write the table."""
    valid, folders = plan.values["valid_dataset"], []
    for name, model in models.items():
        folder = out / "evaluations" / name
        rows = ["--n", str(plan.get("data.dev_rows"))] if plan.get("data.dev_rows") else []
        _stage(
            f"evaluation of {name}",
            next(iter(folder.glob("*/evaluation.json")), folder / "evaluation.json"),
            [
                *GSM8K, "eval", model, "--data", valid["path"], "--split", valid["split"], *rows,
                "--seed", str(plan.get("seed")), "--answer-format", plan.get("answer_format"),
                "--max-new-tokens", str(plan.get("eval_gconfig.max_new_tokens")), "--output-dir", str(folder),
            ],
        )  # fmt: skip
        folders.append(f"{name}={next(iter(folder.glob('*/evaluation.json'))).parent}")
    _stage("the table", None, [*GSM8K, "compare", *folders, "--out", str(out)])


def training_seconds(run: Run) -> float:
    """Wall time of a GRPO run's steps without evaluations and saving."""
    rows = [row for row in run.read_metrics() if "reward" in row]
    besides = ("time/eval", "time/save", "time/recovery")
    return sum(row["time/step"] - sum(row.get(name) or 0.0 for name in besides) for row in rows)


def _stage(name: str, result: Path | None, command: list[str]) -> None:
    """Run one command and show its output, unless its result exists. Raises StageFailed."""
    if result and result.exists():
        print(f"== {name}: there already ({result})", flush=True)
        return
    print(f"== {name}: {shlex.join(command)}", flush=True)
    if code := subprocess.run(command, check=False).returncode:
        raise StageFailed(f"{name} ended with code {code}; the same command goes on from here.")
