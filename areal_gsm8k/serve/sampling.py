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


PIECE = 1 << 20  # logits turned into probabilities at once
BLOCK = 512  # choices
BELOW_ONE = 1.0 - 2.0**-40  # uniform numbers end here, so that rounding never lands beyond the last weight above 0


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
    """Index (rows, 1) drawn in proportion to weights (rows, choices). Float64 sums: a float32 CDF loses rare tokens.

    Of many choices first a block, then a choice in it, so that float64 sums are made of a few hundred numbers a row
    instead of a whole vocabulary. The block's own sum is float32: wrong by 1e-7 of it.
    """
    choices = weights.shape[1]
    if choices <= 8 * BLOCK:
        return _inverse_cdf(weights, u * BELOW_ONE)[0]
    whole = choices // BLOCK * BLOCK
    sums = weights[:, :whole].unflatten(1, (-1, BLOCK)).sum(-1)  # (rows, blocks)
    sums = torch.cat([sums, weights[:, whole:].sum(-1, keepdim=True)], 1)
    block, before, total = _inverse_cdf(sums, u * BELOW_ONE)
    columns = block * BLOCK + torch.arange(BLOCK, device=weights.device)  # (rows, BLOCK)
    inside = weights.gather(1, columns.clamp(max=choices - 1)) * (columns < choices)
    share = (u * BELOW_ONE * total - before) / sums.gather(1, block).double()  # of the block's own sum
    return block * BLOCK + _inverse_cdf(inside, share.clamp(0.0, BELOW_ONE))[0]


def _inverse_cdf(weights: torch.Tensor, u: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Index (rows, 1) for u up to BELOW_ONE, the sum of the weights before it, and the sum of all; sums in float64."""
    cdf = weights.cumsum(-1, dtype=torch.float64)
    index = torch.searchsorted(cdf, u * cdf[:, -1:], right=True)
    return index, torch.where(index > 0, cdf.gather(1, (index - 1).clamp(min=0)), 0.0), cdf[:, -1:]


def probabilities(logits: torch.Tensor, requests: list[Request]) -> torch.Tensor:
    """What SGLang reports logprobs of, (rows, vocab): softmax(logits / T) after penalties and before truncation.

    At temperature 0 that of T = 1. Truncation is by top-p, top-k and min-p.
    """
    return torch.softmax(_scaled(logits, requests), -1)


def sample(logits: torch.Tensor, requests: list[Request]) -> tuple[list[int], list[float]]:
    """Next token of every row and its logprob (see probabilities). logits (rows, vocab); row i belongs to requests[i].

    A few rows at a time: what is computed between stays in the cache, and in memory that the process has already.
    """
    ids, logprobs = [], []
    rows = max(1, PIECE // logits.shape[1])
    for at in range(0, len(requests), rows):
        drawn = _sample(logits[at : at + rows], requests[at : at + rows])
        ids += [int(token) for token, _ in drawn]
        logprobs += [logprob for _, logprob in drawn]
    return ids, logprobs


def _scaled(logits: torch.Tensor, requests: list[Request]) -> torch.Tensor:
    logits = logits.float()
    if any(r.params.penalises for r in requests):
        logits = penalised(logits, requests)
    divisors = [r.params.divisor for r in requests]
    if len(set(divisors)) > 1:
        return logits / torch.tensor(divisors, device=logits.device)[:, None]
    return logits / divisors[0] if divisors[0] != 1.0 else logits


def _sample(logits: torch.Tensor, requests: list[Request]) -> list[list[float]]:
    logits = _scaled(logits, requests)
    probs = torch.softmax(logits, -1)
    params = [r.params for r in requests]
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
    return torch.cat([ids.double(), logprobs.double()], dim=1).tolist()  # one transfer from the device
