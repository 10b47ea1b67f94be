"""Two models on the same items: is the difference more than chance?

mcnemar_exact(gained=207, lost=9)        # right or wrong, one completion an item
paired_bootstrap(before, after, seed=0)  # any score an item

McNemar, Q. (1947), Note on the sampling error of the difference between correlated proportions or percentages,
Psychometrika 12, 153-157. Efron, B. and Tibshirani, R. (1993), An Introduction to the Bootstrap, section 13.3.
"""

from __future__ import annotations

from collections.abc import Sequence

RESAMPLES = 10_000


def mcnemar_exact(gained: int, lost: int) -> float:
    """Two-sided p of the exact McNemar test: of the items whose verdict changed, would a fair coin split them so?"""
    from scipy.stats import binomtest

    return float(binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0


def paired_bootstrap(before: Sequence[float], after: Sequence[float], seed: int) -> tuple[float, float, float]:
    """Mean difference after - before over items, and its 95 % percentile interval; items are drawn, with both scores.

    Scores take few values, so a resample is drawn as counts of the distinct differences: the same distribution as
    drawing items one by one. Raises ValueError when the two are of different length or empty.
    """
    import numpy as np

    if len(before) != len(after) or not len(before):
        raise ValueError(f"a paired bootstrap needs the same items twice, found {len(before)} and {len(after)}")
    differences = np.asarray(after, dtype=float) - np.asarray(before, dtype=float)
    values, counts = np.unique(differences, return_counts=True)
    n = len(differences)
    drawn = np.random.default_rng(seed).multinomial(n, counts / n, size=RESAMPLES)  # (RESAMPLES, distinct values)
    low, high = np.quantile(drawn @ values / n, (0.025, 0.975))
    return float(differences.mean()), float(low), float(high)
