"""Statistics behind the numbers we print: intervals, pass@k, and tests on paired items.

    wilson_interval(1055, 1319)                    # one model, one completion an item
    mcnemar(first, second).p_value                 # two models, right or wrong on the same items
    paired_difference(first, second)               # the same as a difference with its interval; any scores

Sources: Wilson (1927), Probable inference, the law of succession, and statistical inference, JASA 22, 209-212;
Chen et al. (2021), Evaluating large language models trained on code, arXiv:2107.03374, eq. 1; McNemar (1947), Note on
the sampling error of the difference between correlated proportions, Psychometrika 12, 153-157; Efron and Tibshirani
(1993), An introduction to the bootstrap, chapter 13 (percentile intervals).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import comb, sqrt
from typing import NamedTuple

Z_95 = 1.959963984540054
RESAMPLES = 10_000


def wilson_interval(successes: int, n: int, z: float = Z_95) -> tuple[float, float]:
    """Wilson score interval of a proportion, 95 % by default; (0, 1) when nothing was measured."""
    if not 0 <= successes <= n:
        raise ValueError(f"successes={successes} is not between 0 and n={n}")
    if n == 0:
        return 0.0, 1.0
    share = successes / n
    centre = share + z * z / (2 * n)
    spread = z * sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    return max(0.0, (centre - spread) / scale), min(1.0, (centre + spread) / scale)


def share_interval(share: float, n: int) -> tuple[float, float]:
    """The Wilson interval of a share of n, as metrics.jsonl records shares."""
    return wilson_interval(round(share * n), n)


def in_per_cent(low: float, high: float, sign: str = "") -> str:
    """An interval of shares as we print all of them: "[45.0, 55.2]"; with sign "+" that of a difference."""
    return f"[{100 * low:{sign}.1f}, {100 * high:{sign}.1f}]"


def pass_at_k(n: int, right: int, k: int) -> float:
    """Unbiased estimate of the chance that one of k samples is right, when `right` of n samples of the item are right.

    1 - C(n - right, k) / C(n, k), Chen et al. eq. 1. Raises ValueError when k is not between 1 and n.
    """
    if not 0 <= right <= n or not 1 <= k <= n:
        raise ValueError(f"pass@k needs 0 <= right <= n and 1 <= k <= n, found right={right}, n={n}, k={k}")
    return 1.0 - comb(n - right, k) / comb(n, k)


def mean_at_k(right: Sequence[int], k: int) -> float:
    """Mean over items of the share of an item's k samples that are right. Raises ValueError without items."""
    if not right or k < 1 or not all(0 <= count <= k for count in right):
        raise ValueError(f"mean@k needs items, each with 0 to k={k} right samples; found {list(right)[:5]}...")
    return sum(right) / (k * len(right))


def gained_lost(before: Iterable[float], after: Iterable[float]) -> tuple[int, int]:
    """How many items have a higher score after than before, and how many a lower one; of verdicts: right, wrong."""
    pairs = list(zip(before, after, strict=True))
    return sum(b > a for a, b in pairs), sum(b < a for a, b in pairs)


class McNemar(NamedTuple):
    """gained: items the second got right and the first wrong; lost: the other way round; p_value: two-sided, exact."""

    gained: int
    lost: int
    p_value: float


def mcnemar(first: Sequence[bool], second: Sequence[bool]) -> McNemar:
    """Exact McNemar test of two models on the same items: a binomial test on the items that changed.

    Raises ValueError when the two are of different length.
    """
    from scipy.stats import binomtest

    gained, lost = gained_lost(map(bool, first), map(bool, second))
    return McNemar(gained, lost, float(binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0)


class Difference(NamedTuple):
    """mean of second - first over the items, and its 95 % percentile bootstrap interval."""

    mean: float
    low: float
    high: float


def paired_difference(first: Sequence[float], second: Sequence[float], seed: int = 0) -> Difference:
    """Bootstrap of the mean difference of two models' scores on the same items; items are resampled in pairs.

    Raises ValueError when the two are of different length or empty.
    """
    differences = [float(b) - float(a) for a, b in zip(first, second, strict=True)]
    return Difference(sum(differences) / len(differences) if differences else 0.0, *bootstrap_mean(differences, seed))


def bootstrap_mean(values: Sequence[float], seed: int = 0) -> tuple[float, float]:
    """95 % percentile bootstrap interval of a mean over items, from 10,000 resamples. Raises ValueError without items.

    Scores take few distinct values, so a resample is drawn as their multinomial counts: the same distribution as
    drawing item by item, in a thousandth of the memory.
    """
    import numpy as np

    if not len(values):
        raise ValueError("a bootstrap needs at least one item")
    distinct, counts = np.unique(np.asarray(values, dtype=float), return_counts=True)
    drawn = np.random.default_rng(seed).multinomial(len(values), counts / len(values), size=RESAMPLES)
    low, high = np.quantile(drawn @ distinct / len(values), (0.025, 0.975))
    return float(low), float(high)
