"""Made-up courses of a run: rows of metrics.jsonl and a configuration, for the verdict, the band and the views."""

import random

CONFIG = {
    "answer_format": "hash",
    "train_dataset": {"path": "generated", "batch_size": 8},
    "gconfig": {"n_samples": 8, "max_new_tokens": 48, "temperature": 1.0},
    "actor": {"path": "tiny", "dtype": "float32", "optimizer": {"lr": 3e-4}},
    "reward": {"accuracy": 1.0, "format": 0.0, "shuffled": False},
}
HEALTHY = {
    "format_rate": 1.0, "groups": 8, "groups_without_signal": 0.25, "truncated": 0.0, "completion_tokens": 25.0,
    "staleness": 1.0, "staleness_max": 1, "logprob_gap": None, "logprob_drift": 1e-3, "reward_errors": 0,
    "rejected_samples": 0, "tokens_per_second": 1000.0, "time/step": 2.0, "lr": 3e-4, "grad_norm": 0.4,
    "loss": 0.001, "entropy": 0.05,
}  # fmt: skip


def config(**changes) -> dict:
    """CONFIG with dotted keys changed, dots written as double underscores: config(reward__shuffled=True)."""
    made = {name: dict(value) if isinstance(value, dict) else value for name, value in CONFIG.items()}
    made["actor"]["optimizer"] = dict(CONFIG["actor"]["optimizer"])
    for key, value in changes.items():
        *sections, leaf = key.split("__")
        inside = made
        for name in sections:
            inside = inside.setdefault(name, {})
        inside[leaf] = value
    return made


def steps(rewards, dev: dict[int, float] | None = None, **metrics) -> list[dict]:
    """A row a reward; `dev` gives accuracies of 400 dev rows by step (0 has a row of its own); a metric is a constant
    or a list with a value a step."""
    dev = dev or {}
    rows = [{"step": 0} | _dev(dev[0])] if 0 in dev else []
    for step, reward in enumerate(rewards, 1):
        values = {name: value[step - 1] if isinstance(value, list) else value for name, value in metrics.items()}
        row = HEALTHY | {"step": step, "reward": reward, "accuracy": reward, "accuracy_strict": reward}
        rows.append(row | values | (_dev(dev[step]) if step in dev else {}))
    return rows


def _dev(accuracy: float) -> dict:
    return {"dev/accuracy": accuracy, "dev/n": 400}


def noisy(means, seed: int = 0, prompts: int = 8, samples: int = 8) -> list[float]:
    """Batch means of rewards that are 0 or 1, as a recipe of 8 x 8 has them: every prompt has a chance of its own."""
    draw = random.Random(seed)
    return [sum(_group(draw, mean, samples) for _ in range(prompts)) / (prompts * samples) for mean in means]


def _group(draw: random.Random, mean: float, samples: int) -> int:
    chance = draw.betavariate(max(mean, 0.01), max(1 - mean, 0.01))  # most prompts are mostly right or mostly wrong
    return sum(draw.random() < chance for _ in range(samples))


def line(start: float, end: float, count: int) -> list[float]:
    return [start + (end - start) * at / max(1, count - 1) for at in range(count)]
