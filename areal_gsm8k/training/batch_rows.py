"""From a batch of tensors to rows a person can read: one row a consumed sample, one row of metrics a step.

Dimension names: G samples of a group, T tokens (AReaL has shifted loss_mask, logprobs and advantages by one, so that
position t speaks of token t+1).
"""

from typing import Any

import torch

AREAL_STATS = {  # our metric name -> AReaL's key
    "lr": "ppo_actor/update/lr",
    "grad_norm": "ppo_actor/update/grad_norm",
    "loss": "ppo_actor/update/actor_loss/avg",
    "entropy": "ppo_actor/update/entropy/avg",
    "clip_ratio": "ppo_actor/update/clip_ratio/avg",
    "time/rollout": "timeperf/rollout",
    "time/logprobs": "timeperf/recompute_logp",
    "time/reference": "timeperf/ref_logp",
    "time/advantages": "timeperf/compute_advantage",
    "time/train": "timeperf/train_step",
    "time/update_weights": "timeperf/update_weights",
    "time/save": "timeperf/save",
    "time/recovery": "timeperf/recovery",
    "time/eval": "timeperf/eval",
}


def sample_rows(groups: list[dict[str, Any]], rank: int) -> list[dict[str, Any]]:
    """The tensors' facts on each sample: id, group, reward, advantage and, with a reference policy, KL.

    `groups` hold sample_id, rewards (G,) and advantages, loss_mask (G, T). `kl` sums log pi - log pi_ref over the
    tokens, the estimator k1: its mean over samples of pi is the KL, in nats.
    """
    rows = []
    for index, group in enumerate(groups):
        mask_GT = group["loss_mask"].bool()
        for g, sample_id in enumerate(group["sample_id"].tolist()):
            mask_T = mask_GT[g]
            advantage_T = group["advantages"][g][mask_T]
            row = {
                "id": sample_id,
                "group": f"{rank}-{index}",
                "reward": group["rewards"][g].item(),  # the reward of the update: in the control run, the permuted one
                "advantage": advantage_T.mean().item() if len(advantage_T) else 0.0,
            }
            if "ref_logp" in group:
                row["kl"] = (group["logprobs"] - group["ref_logp"])[g][mask_T].sum().item()
            rows.append(row)
    return rows


def logprob_gaps(flat: dict[str, Any], trainer_F: torch.Tensor, version: int) -> dict[int, dict[str, Any]]:
    """By sample id, how far the trainer's logprobs (before the update) are from those of the rollout, in nats a token.

    `flat` is a microbatch of F tokens: rollout_logprobs, loss_mask, versions and sample_id, (F,), and cu_seqlens. Over
    all tokens `logprob_gap` is the largest and `logprob_drift` the mean; `logprob_gap_current` is the largest over
    tokens of the current `version`, whose gap is an error of the engines, not of staleness.
    """
    mask_F = flat["loss_mask"].bool()
    gaps_F = (trainer_F - flat["rollout_logprobs"]).abs()
    current_F = mask_F & (flat["versions"].roll(-1) == version)
    starts, ends = flat["cu_seqlens"][:-1].tolist(), flat["cu_seqlens"][1:].tolist()
    gaps = {}
    for start, end in zip(starts, ends, strict=True):
        gaps_T, mask_T, current_T = gaps_F[start:end], mask_F[start:end], current_F[start:end]
        gaps[int(flat["sample_id"][start])] = {
            "logprob_gap": _largest(gaps_T[mask_T]),
            "logprob_drift": gaps_T[mask_T].mean().item() if mask_T.any() else None,
            "logprob_gap_current": _largest(gaps_T[current_T]),
        }
    return gaps


def _largest(values: torch.Tensor) -> float | None:
    return values.max().item() if len(values) else None


def _mean(values: list) -> float | None:
    return sum(values) / len(values) if values else None


def step_metrics(
    samples: list[dict[str, Any]], rejected: list[dict[str, Any]], areal: dict[str, float], version: int, seconds: float
) -> dict[str, float | None]:
    """One step's metrics from its sample rows, the rejected ones, AReaL's statistics and its wall time."""
    groups: dict[str, list[float]] = {}
    for row in samples:
        groups.setdefault(row["group"], []).append(row["reward"])
    gaps = [row["logprob_gap_current"] for row in samples if row.get("logprob_gap_current") is not None]
    drifts = [row["logprob_drift"] for row in samples if row.get("logprob_drift") is not None]
    generating = seconds - sum(areal.get(f"timeperf/{name}", 0.0) for name in ("eval", "save", "recovery"))
    tokens = [row["completion_tokens"] for row in samples]
    staleness = [version - v for row in samples for v in row["versions"]]
    metrics = {
        "reward": _mean([row["reward"] for row in samples]),
        "accuracy": _mean([row["lenient"] for row in samples]),
        "accuracy_strict": _mean([row["strict"] for row in samples]),
        "format_rate": _mean([row["formatted"] for row in samples]),
        "groups": len(groups),
        "groups_without_signal": _mean([len(set(rewards)) == 1 for rewards in groups.values()]),
        "truncated": _mean([row["truncated"] for row in samples]),
        "completion_tokens": _mean(tokens),
        "staleness": _mean(staleness),
        "staleness_max": max(staleness, default=None),
        "logprob_gap": max(gaps, default=None),
        "logprob_drift": _mean(drifts),
        "reward_errors": sum("error" in row for row in rejected),
        "rejected_samples": len(rejected),
        "tokens_per_second": sum(tokens) / generating,
        "time/step": seconds,
    }
    if samples and "kl" in samples[0]:
        metrics["kl"] = sum(row["kl"] for row in samples) / sum(tokens)
    for part in samples[0]["parts"] if samples else ():
        metrics[f"reward/{part}"] = _mean([row["parts"][part] for row in samples])
    return metrics | {ours: areal[key] for ours, key in AREAL_STATS.items() if key in areal}


def evaluation_metrics(rows: list[dict[str, Any]]) -> dict[str, float | None]:
    """Accuracies of one dev evaluation; a completion that could not be graded counts in n and as an error."""
    n = len(rows)
    return {
        "dev/accuracy": sum(row.get("lenient", False) for row in rows) / n if n else None,
        "dev/accuracy_strict": sum(row.get("strict", False) for row in rows) / n if n else None,
        "dev/format_rate": sum(row.get("formatted", False) for row in rows) / n if n else None,
        "dev/truncated": _mean([row["truncated"] for row in rows if "truncated" in row]),
        "dev/completion_tokens": _mean([row["completion_tokens"] for row in rows if "completion_tokens" in row]),
        "dev/errors": sum("error" in row for row in rows),
        "dev/n": n,
    }
