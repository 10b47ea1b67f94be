"""`gsm8k generate`: write completions of models on data, without grading.

gsm8k generate runs/gsm8k-grpo/1 --data data/gsm8k --split train --k 4 --temperature 1
"""

from functools import wraps

from areal_gsm8k.cli import evaluate


@wraps(evaluate.evaluate)  # the same options
def generate(**options) -> None:
    evaluate.run(graded=False, **options)


generate.__doc__ = """Completions of models on data: `gsm8k eval` without grading.

Writes completions.jsonl and generation.json (what made them). Interrupted, the same command goes on where it stopped.
"""
