"""A GRPO run as it lies on disk, made up: what the report's tests read. No model is involved."""

import json
import random
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from areal_gsm8k.runs import Run, append_lines, to_lines, write_atomically

try:
    import areal_gsm8k.verdict  # noqa: F401
except ImportError:  # being written elsewhere: as much of it as the report reads

    @dataclass(frozen=True)
    class Verdict:
        state: str
        step: int
        summary: str
        causes: list

    def stub(name: str, **names) -> None:
        import areal_gsm8k

        module = ModuleType(f"areal_gsm8k.{name}")
        module.__dict__.update(names)
        sys.modules[module.__name__] = module
        setattr(areal_gsm8k, name, module)

    stub("verdict", Verdict=Verdict, of_run=lambda run: Verdict("too early", 0, "nothing to judge yet", []))
    stub("band", Band=object, band_of=lambda run: None)

CONFIG = """
answer_format: hash
actor: {path: MODEL, optimizer: {lr: 0.0003}}
allocation_mode: embedded:d1p1t1+fsdp:d1p1t1
data: {train_rows: 1920, dev_rows: 4}
train_dataset: {path: generated, batch_size: 2, split: train}
valid_dataset: {path: generated, split: dev}
gconfig: {n_samples: 4, temperature: 1.0, max_new_tokens: 48}
eval_gconfig: {n_samples: 1, greedy: true, temperature: 1.0, max_new_tokens: 48}
reward: {accuracy: 1.0, shuffled: false}
seed: 1
stats_logger: {wandb: {mode: disabled, wandb_api_key: sk-very-secret}}
"""
TEXT = "She sells the remaining eggs at 2 dollars each so we multiply and then add what is left over from the day"


def question(number: int) -> str:
    return f"Question {number}: Ana has {number} eggs. How many?"


def sample(step: int, group: int, member: int, **more) -> dict:
    """Even members are right; member 3 is cut off. Rewards of group 1 are all equal."""
    right = member % 2 == 0
    return {
        "id": 100 * step + 10 * group + member,
        "row": f"train-{step}-{group}",
        "question": question(10 * step + group),
        "reference": f"steps\n#### {group}",
        "completion": f"step {step} group {group} member {member}\n#### {group if right else 99}",
        "completion_tokens": 20 + member,
        "truncated": member == 3,
        "versions": [step - 1],
        "extracted": str(group if right else 99),
        "rule": "hash",
        "lenient": right,
        "strict": right,
        "formatted": True,
        "parts": {"accuracy": float(right)},
        "reward": float(right) if group != 1 else 0.0,
        "group": f"0-{group}",
        "advantage": (0.5 if right else -0.5) if group != 1 else 0.0,
        "logprob_drift": 0.00123456789,
    } | more


def dev_rows(right: str, text: str = "an answer") -> list[dict]:
    """One greedy answer an item: `R` right, `W` wrong."""
    return [
        {
            "row": f"dev-{at}", "question": question(at), "reference": "steps\n#### 1", "completion": f"{text} {at}",
            "extracted": "1" if letter == "R" else "2", "rule": "hash", "lenient": letter == "R",
            "strict": letter == "R", "formatted": True, "truncated": False, "completion_tokens": 20,
        }
        for at, letter in enumerate(right)
    ]  # fmt: skip


def metrics(step: int, **more) -> dict:
    return {
        "step": step, "epoch": 1, "reward": 0.1 * step, "accuracy": 0.1 * step, "accuracy_strict": 0.1 * step,
        "format_rate": 1.0, "groups": 2, "groups_without_signal": 0.5, "truncated": 0.25, "completion_tokens": 21.5,
        "staleness": 1.0, "staleness_max": 1, "logprob_gap": None, "logprob_drift": 0.001, "reward_errors": 0,
        "rejected_samples": 0, "tokens_per_second": 1000.0, "time/step": 2.0, "reward/accuracy": 0.1 * step,
        "lr": 3e-4, "grad_norm": 0.3, "loss": 1e-4, "entropy": 0.05, "clip_ratio": 0.0, "time/rollout": 0.5,
        "time/logprobs": 0.3, "time/advantages": 0.1, "time/train": 1.0, "time/update_weights": 0.1,
    } | more  # fmt: skip


def dev_metrics(right: str) -> dict:
    share = right.count("R") / len(right)
    return {"dev/accuracy": share, "dev/accuracy_strict": share, "dev/format_rate": 1.0, "dev/truncated": 0.0,
            "dev/completion_tokens": 20.0, "dev/errors": 0, "dev/n": len(right)}  # fmt: skip


def make_run(root: Path, steps: int = 4, evaluated: dict[int, str] | None = None, model: str = "a/model") -> Run:
    """A run of so many steps, two groups of four each, with dev evaluations after the steps given."""
    run = Run(root)
    evaluated = {0: "RWWW", steps: "WRRW"} if evaluated is None else evaluated
    write_atomically(run.config, CONFIG.replace("MODEL", json.dumps(model)))
    for step, right in evaluated.items():
        write_atomically(run.evaluation(step), to_lines(dev_rows(right, f"after step {step}:")))
    rows = [{"step": 0} | dev_metrics(evaluated[0])] if 0 in evaluated else []
    dev = {step: dev_metrics(right) for step, right in evaluated.items()}
    rows += [metrics(step, **dev.get(step, {})) for step in range(1, steps + 1)]
    append_lines(run.metrics, rows)
    for step in range(1, steps + 1):
        write_atomically(run.samples(step), to_lines(sample(step, g, m) for g in range(2) for m in range(4)))
    append_lines(run.launches, [{"command": "./run train seed=1", "time": 1795279631.0, "step": 0, "spent": 0.0}])
    run.set_status("finished")
    return run


def long_text(chance: random.Random, words: int = 160) -> str:
    """As compressible as a worked solution: common words, other numbers each time."""
    common = TEXT.split()
    drawn = (chance.choice(common) if chance.random() < 0.8 else str(chance.randrange(1000)) for _ in range(words))
    return " ".join(drawn)
