"""One run of TRL's GRPOTrainer, in TRL's own environment: what benchmarks/vs_trl.py puts beside a run of ours.

    .venv.trl/bin/python benchmarks/trl/train.py SETTINGS.json

SETTINGS.json, made in benchmarks/trl/sides.py, names model, rows, the folder of results and TRL's own arguments.
Written there: steps.jsonl, a row when training begins and one a step, with the wall seconds since then less those of
saving weights; weights/step_NNNNN after the steps asked for; software.json. Rewards come from the grader of our runs.
"""

import json
import sys
import time
from importlib.metadata import version
from pathlib import Path

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import GRPOConfig, GRPOTrainer

# TRL's environment does not hold this project; its grader needs no package that is missing there.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from areal_gsm8k.grading.parser import grade
from areal_gsm8k.runs.files import append_lines, write_atomically

PACKAGES = ("trl", "torch", "transformers", "accelerate", "datasets", "numpy")


def accuracy(completions: list[list[dict]], reference: list[str], **_) -> list[float]:
    """The reward of our runs, areal_gsm8k.grading.rewards.accuracy."""
    texts = [messages[0]["content"] for messages in completions]
    return [float(grade(text, gold).lenient) for text, gold in zip(texts, reference, strict=True)]


class Recorder(TrainerCallback):
    """Puts steps on file and keeps weights; the time for that is no time of training."""

    def __init__(self, folder: Path, settings: dict, tokenizer):
        self.folder, self.settings, self.tokenizer = folder, settings, tokenizer
        self.began = self.left_out = self.wall = 0.0

    def on_train_begin(self, args, state, control, **_) -> None:
        append_lines(self.folder / "steps.jsonl", [{"step": 0}])
        self.began = time.perf_counter()

    def on_step_end(self, args, state, control, model, **_) -> None:
        ended = time.perf_counter()
        self.wall = ended - self.began - self.left_out
        if state.global_step in self.settings["keep_at"]:
            folder = self.folder / "weights" / f"step_{state.global_step:05d}"
            model.save_pretrained(folder)
            self.tokenizer.save_pretrained(folder)
        control.should_training_stop |= state.global_step >= self.settings["stop_at"]
        self.left_out += time.perf_counter() - ended

    def on_log(self, args, state, control, logs, **_) -> None:
        """TRL's own metrics of the step that just ended: logging_steps is 1."""
        if "reward" in logs:
            began = time.perf_counter()
            append_lines(self.folder / "steps.jsonl", [{"step": state.global_step, "wall": self.wall} | logs])
            self.left_out += time.perf_counter() - began


def main() -> None:
    settings = json.loads(Path(sys.argv[1]).read_text())
    folder = Path(settings["folder"])
    torch.set_num_threads(settings["threads"])
    tokenizer = AutoTokenizer.from_pretrained(settings["model"])
    model = AutoModelForCausalLM.from_pretrained(settings["model"], dtype=getattr(torch, settings["dtype"]))
    trainer = GRPOTrainer(
        model=model,
        reward_funcs=accuracy,
        args=GRPOConfig(
            output_dir=str(folder / "trl"),
            use_cpu=True,
            use_vllm=False,
            save_strategy="no",
            report_to="none",
            logging_steps=1,
            disable_tqdm=True,
            dataloader_pin_memory=False,
            **settings["arguments"],
        ),
        train_dataset=Dataset.from_list([json.loads(line) for line in Path(settings["rows"]).read_text().splitlines()]),
        processing_class=tokenizer,
        callbacks=[Recorder(folder, settings, tokenizer)],
    )
    write_atomically(folder / "software.json", json.dumps({name: version(name) for name in PACKAGES}))
    trainer.train()


if __name__ == "__main__":
    main()
