"""Sampling parameters as SGLang names them, and one batched sampler that treats every row by its own.

Drawing is by inverse CDF: one uniform number a row, from a counter-based generator over (seed, position). That way is
faster than multinomial or Gumbel noise on a CPU, needs no generator state, and does not depend on which rows share a
batch; and a seeded answer that was interrupted and resent as prompt + partial goes on exactly as if never interrupted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from .request import Request


def uniforms(seeds: list[int], positions: list[int]) -> np.ndarray:
    """One float64 in [0, 1) a row, a fixed function of (seed, position): SplitMix64 (Steele, Lea, Flood 2014)."""
    with np.errstate(over="ignore"):
        x = np.array(seeds, dtype=np.uint64)
        x += (np.array(positions, dtype=np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        x ^= x >> np.uint64(31)
    return (x >> np.uint64(11)) * 2.0**-53


def penalised(logits: torch.Tensor, requests: list[Request]) -> torch.Tensor:
    """Logits (rows, vocab) less frequency and presence penalties, with stop ids ruled out below min_new_tokens."""
    logits = logits.clone()
    for row, request in zip(logits, requests, strict=True):
        params = request.params
        if request.output_ids:
            ids, counts = np.unique(request.output_ids, return_counts=True)
            costs = params.frequency_penalty * counts + params.presence_penalty
            row[torch.from_numpy(ids).to(row.device)] -= torch.from_numpy(costs).to(row)
        if len(request.output_ids) < params.min_new_tokens and request.stop_ids:
            row[list(request.stop_ids)] = float("-inf")
    return logits


def truncated(probs: torch.Tensor, requests: list[Request], u: torch.Tensor) -> torch.Tensor:
    """Draw ids (rows, 1) from each row's top-k, top-p, min-p nucleus; all three cut the same untruncated distribution.

    A token stays in the nucleus when the mass above it is at most top_p (SGLang's rule), so the best one always does.
    """
    params = [r.params for r in requests]
    vocab = probs.shape[1]
    top_k = [p.top_k if 0 < p.top_k < vocab else vocab for p in params]
    # probs of each row from the best down to the largest rank any row wants: (rows, ranks)
    best, ids = probs.topk(max(top_k), dim=-1)

    def column(values: list) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.float64, device=probs.device)[:, None]

    above = best.cumsum(-1, dtype=torch.float64) - best
    keep = above <= column([p.top_p if p.top_p < 1.0 else 2.0 for p in params])
    keep &= torch.arange(best.shape[1], device=probs.device) < column(top_k)
    keep &= best >= best[:, :1] * column([p.min_p for p in params])
    return ids.gather(1, inverse_cdf(best * keep, u))


def inverse_cdf(weights: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
    """Index (rows, 1) drawn in proportion to weights (rows, choices). Float64 sums: a float32 CDF loses rare tokens."""
    cdf = weights.cumsum(-1, dtype=torch.float64)
    # Shrunk by 2^-40 so that rounding never lands beyond the last weight above 0.
    return torch.searchsorted(cdf, u * (cdf[:, -1:] * (1.0 - 2.0**-40)), right=True)


def sample(logits: torch.Tensor, requests: list[Request]) -> tuple[list[int], list[float], torch.Tensor]:
    """Next token of every row. logits (rows, vocab); row i belongs to requests[i].

    Returns ids, their logprobs, and the probabilities (rows, vocab) both are of: softmax(logits / T) after penalties
    and before top-p, top-k and min-p, which is what SGLang reports (and at temperature 0 that of T = 1).
    """
    logits = logits.float()
    params = [r.params for r in requests]
    if any(p.penalises for p in params):
        logits = penalised(logits, requests)
    divisors = [p.divisor for p in params]
    if len(set(divisors)) > 1:
        logits = logits / torch.tensor(divisors, device=logits.device)[:, None]
    elif divisors[0] != 1.0:
        logits = logits / divisors[0]
    probs = torch.softmax(logits, -1)
    greedy = [p.greedy for p in params]
    if all(greedy):
        ids = logits.argmax(-1, keepdim=True)
    else:
        drawn = uniforms([r.seed for r in requests], [r.length for r in requests])
        u = torch.from_numpy(drawn).to(logits.device)[:, None]
        ids = truncated(probs, requests, u) if any(p.truncates for p in params) else inverse_cdf(probs, u)
        if any(greedy):
            best = logits.argmax(-1, keepdim=True)
            ids = torch.where(torch.tensor(greedy, device=ids.device)[:, None], best, ids)
    logprobs = probs.gather(1, ids.clamp(max=probs.shape[1] - 1)).log()
    both = torch.cat([ids.double(), logprobs.double()], dim=1).tolist()  # one transfer from the device
    return [int(i) for i, _ in both], [p for _, p in both], probs
