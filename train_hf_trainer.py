"""Supervised fine-tuning, the standard baseline: transformers.Trainer on the data, masks and order of the plain loop.

    python train_hf_trainer.py --model Qwen/Qwen2.5-0.5B-Instruct --output-dir runs/hf-sft --max-time 600
    python train_hf_trainer.py ... --resume            the same command again, after an interruption of any kind

The flags and files are those of train_local_simple.py, and so are the losses, step by step: each of the two checks the
other. areal_gsm8k/sft/hf.py sets Trainer up. This program imports neither AReaL nor SGLang and runs on Linux, macOS and
Windows.
"""

import typer

from areal_gsm8k.sft import command


def train(*arguments) -> dict:
    from areal_gsm8k.sft import hf  # heavy: --help does without

    return hf.train(*arguments)


main = command.command(train, "transformers.Trainer")

if __name__ == "__main__":
    typer.run(main)
