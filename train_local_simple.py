"""Supervised fine-tuning, the simple baseline: a plain PyTorch loop that fits on one screen (areal_gsm8k/sft/loop.py).

    python train_local_simple.py --model Qwen/Qwen2.5-0.5B-Instruct --output-dir runs/sft --max-time 600
    python train_local_simple.py --model MODEL --data generated --answer-format hash --output-dir runs/sft
    python train_local_simple.py ... --resume          the same command again, after an interruption of any kind

Only the solutions are learnt, never the questions. The program writes into --output-dir: model/ (Hugging Face format),
train_log.jsonl (one object an update) and summary.json. It imports neither AReaL nor SGLang and runs on Linux, macOS
and Windows. train_hf_trainer.py is the same training through transformers.Trainer.
"""

import typer

from areal_gsm8k.sft import command, loop

main = command.command(loop.train, "a plain PyTorch loop")

if __name__ == "__main__":
    typer.run(main)
