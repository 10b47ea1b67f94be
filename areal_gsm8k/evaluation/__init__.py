"""Evaluation of any Hugging Face causal model on GSM8K-like items: completions, verdicts, and a card of what was done.

    settings = EvaluationSettings(answer_format="hash")
    card = evaluate("runs/tiny-grpo/1", items.load("generated", "dev", n=100), settings, folder)

`gsm8k eval` and `gsm8k generate` use this room, `gsm8k chat` its engines. It imports neither AReaL nor SGLang, and
nothing heavy before something is generated.
"""

from areal_gsm8k.evaluation.card import Card
from areal_gsm8k.evaluation.evaluation import Evaluation, evaluate
from areal_gsm8k.evaluation.settings import EvaluationError, EvaluationSettings

__all__ = ["Card", "Evaluation", "EvaluationError", "EvaluationSettings", "evaluate"]
