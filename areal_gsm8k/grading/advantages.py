"""Advantages of a step's samples from their rewards, as AReaL's actor computes them, without its tensors.

What the update sees of a reward (areal/trainer/ppo/actor.py, `_compute_advantages`): bias, scale, clip, then
`reward_norm`, in GRPO the group's mean and standard deviation; every token of the completion gets the result, and
`adv_norm` may normalise once more, over tokens. Records of samples do not hold enough to repeat KL in the
reward (`kl_ctl`), discounting, `overlong_reward_penalty` and `mask_no_eos_with_zero`, so these are left out.

algorithms.py has the algorithms of the papers, in PyTorch, which takes seconds to import; a regrade must not wait for
PyTorch, and follows whatever keys the run had. tests/grading/test_algorithms.py holds the two files to each other.

advantages([1.0, 0.0, 0.0, 1.0], tokens=[20, 31, 25, 22], actor=config["actor"])

Dimension names: B samples of a step, in the order of its batch.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

UNNOTICED = 1e-6  # kl_reference=true sets actor.kl_ctl below it
NOT_REPRODUCED = {  # keys of `actor`, and the values at which they change nothing
    "kl_ctl": 0.0, "discount": 1.0, "gae_lambda": 1.0, "overlong_reward_penalty": False, "mask_no_eos_with_zero": False,
}  # fmt: skip
NORM = {  # AReaL's NormConfig (areal/api/cli_args.py)
    "mean_level": "batch", "mean_leave1out": False,
    "std_level": "batch", "std_unbiased": True, "eps": 1e-5, "group_size": 1,
}  # fmt: skip


def advantages(rewards: Iterable[float], tokens: Iterable[int], actor: dict) -> np.ndarray:
    """Advantages (B,) of rewards (B,), before any shuffling. tokens (B,): lengths of the completions.

    `actor` is that section of the run's config.yaml; keys it lacks have AReaL's defaults.
    """
    tokens_B = np.array(list(tokens), dtype=np.float64)
    bound = actor.get("reward_clip", 20.0)
    scores_B = np.array(list(rewards), dtype=np.float64) + actor.get("reward_bias", 0.0)
    scores_B = np.clip(scores_B * actor.get("reward_scaling", 1.0), -bound, bound)
    if actor.get("reward_norm"):
        scores_B = normalise(scores_B, np.ones_like(scores_B), actor["reward_norm"])
    if actor.get("adv_norm") and tokens_B.any():
        scores_B = normalise(scores_B, tokens_B, actor["adv_norm"])
    return np.where(tokens_B > 0, scores_B, 0.0)


def normalise(x_B: np.ndarray, times_B: np.ndarray, norm: dict) -> np.ndarray:
    """AReaL's Normalization (areal/utils/data.py) of values that each count `times_B` times."""
    norm = NORM | norm
    mean_B, std_B, eps = np.zeros_like(x_B), np.ones_like(x_B), 0.0
    for part in _parts(norm["mean_level"], norm["group_size"], len(x_B)):
        x, times = x_B[part], times_B[part]
        count, total = times.sum(), (times * x).sum()
        if norm["mean_leave1out"]:
            mean_B[part] = (total - x) / (count - 1) if count > 1 else 0.0
        else:
            mean_B[part] = total / count if count else 0.0
    if norm["std_level"]:
        eps = norm["eps"]
        for part in _parts(norm["std_level"], norm["group_size"], len(x_B)):
            count = times_B[part].sum() - norm["std_unbiased"]
            squares = (times_B[part] * (x_B[part] - mean_B[part]) ** 2).sum()
            std_B[part] = np.sqrt(squares / count) if count > 0 else 1.0
    return (x_B - mean_B) / (std_B + eps)


def _parts(level: str | None, group_size: int, count: int) -> list[slice]:
    """Slices that are normalised together: the whole batch, each group of neighbours, or nothing."""
    if level == "group":
        return [slice(start, start + group_size) for start in range(0, count, group_size)]
    return [slice(0, count)] if level == "batch" else []


def not_reproduced(actor: dict) -> list[str]:
    """The settings, as key=value, by which a run's recorded advantages differ from these."""
    return [
        f"actor.{key}={actor[key]}" for key, off in NOT_REPRODUCED.items() if abs(actor.get(key, off) - off) > UNNOTICED
    ]
