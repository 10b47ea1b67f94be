"""Supervised fine-tuning, the standard baseline: transformers.Trainer on the data, masks and order of the plain loop.

    python train_hf_trainer.py --model Qwen/Qwen2.5-0.5B-Instruct --output-dir runs/hf-sft --max-time 600
    python train_hf_trainer.py ... --resume            the same command again, after an interruption of any kind

The flags and files are those of train_local_simple.py, and so are the losses, step by step: each of the two checks the
other. What Trainer is told is in areal_gsm8k/hf_sft.py. Imports neither AReaL nor SGLang; runs on Linux, macOS and
Windows.
"""

import typer

from areal_gsm8k import sft_command


def train(*arguments) -> dict:
    from areal_gsm8k import hf_sft  # heavy: --help does without

    return hf_sft.train(*arguments)


main = sft_command.command(train, "transformers.Trainer")

if __name__ == "__main__":
    typer.run(main)
