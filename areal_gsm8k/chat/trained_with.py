"""The prompt settings a run was trained with, so that `gsm8k chat RUN` prompts the same way without options.

asked_in_training(find("runs/tiny-grpo/20261121_101500")).answer_format
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from areal_gsm8k.evaluation.model import Model
from areal_gsm8k.runs import samples
from areal_gsm8k.runs.run import Run


@dataclass(frozen=True)
class TrainingPrompt:
    """The words around a question, and where the rows come from; the defaults are those of `gsm8k eval`."""

    answer_format: str = "boxed"
    system_prompt: str | None = None
    max_new_tokens: int = 512
    data: str = "openai/gsm8k"
    data_seed: int = 0  # of generated rows; with the run's own seed /q shows the rows of its evaluations


def asked_in_training(model: Model) -> TrainingPrompt | None:
    """From the config.yaml of a GRPO run or the settings.json of an SFT run around the folder; None without either."""
    for run in list(model.folder.absolute().parents)[:2]:  # run/checkpoints/best and run/model
        if (run / "config.yaml").is_file() and (run / "metrics.jsonl").is_file():
            return _by_grpo(Run(run))
        if (run / "settings.json").is_file() and (run / "train_log.jsonl").is_file():
            return TrainingPrompt(json.loads((run / "settings.json").read_text(encoding="utf-8"))["format"])
    return None


def _by_grpo(run: Run) -> TrainingPrompt:
    config = samples.configuration(run)
    return TrainingPrompt(
        config["answer_format"],
        config["system_prompt"],
        config["eval_gconfig"]["max_new_tokens"],
        config["valid_dataset"]["path"],
        config["seed"],
    )
