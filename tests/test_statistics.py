import itertools
import math

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar as statsmodels_mcnemar
from statsmodels.stats.proportion import proportion_confint

from areal_gsm8k.statistics import bootstrap_mean, mcnemar, mean_at_k, paired_difference, pass_at_k, wilson_interval


@pytest.mark.parametrize(("successes", "n"), [(0, 10), (10, 10), (7, 10), (1055, 1319), (1, 1)])
def test_wilson_is_statsmodels(successes, n):
    assert wilson_interval(successes, n) == pytest.approx(proportion_confint(successes, n, method="wilson"), abs=1e-9)


@pytest.mark.parametrize(("successes", "n"), [(0, 10), (10, 10), (7, 10), (1055, 1319)])
def test_wilson_is_scipy(successes, n):
    interval = stats.binomtest(successes, n).proportion_ci(method="wilson")
    assert wilson_interval(successes, n) == pytest.approx((interval.low, interval.high), abs=1e-9)


def test_nothing_measured_and_nonsense():
    assert wilson_interval(0, 0) == (0.0, 1.0)
    with pytest.raises(ValueError, match="successes=3"):
        wilson_interval(3, 2)


@pytest.mark.parametrize(("n", "right"), [(1, 0), (1, 1), (5, 2), (6, 5), (6, 6), (6, 0)])
def test_pass_at_k_is_the_share_of_subsets_with_a_right_sample(n, right):
    samples = [True] * right + [False] * (n - right)
    for k in range(1, n + 1):
        subsets = [any(subset) for subset in itertools.combinations(samples, k)]
        assert pass_at_k(n, right, k) == pytest.approx(sum(subsets) / len(subsets))


def test_pass_at_k_by_hand_and_as_the_paper_computes_it():
    assert pass_at_k(4, 1, 2) == 0.5  # 1 - C(3, 2) / C(4, 2)
    n, right, k = 200, 7, 100  # Chen et al., figure 3
    assert pass_at_k(n, right, k) == pytest.approx(1 - np.prod(1 - k / np.arange(n - right + 1, n + 1)))
    assert pass_at_k(2000, 3, 1000) == pytest.approx(1 - math.comb(1997, 1000) / math.comb(2000, 1000))


@pytest.mark.parametrize(("n", "right", "k"), [(4, 5, 1), (4, -1, 1), (4, 2, 0), (4, 2, 5)])
def test_pass_at_k_refuses_nonsense(n, right, k):
    with pytest.raises(ValueError, match=f"k={k}"):
        pass_at_k(n, right, k)


def test_mean_at_k():
    assert mean_at_k([0, 1, 4], 4) == pytest.approx(5 / 12)
    assert mean_at_k([1, 0], 1) == 0.5
    for right, k in (([], 1), ([2], 1), ([-1], 1)):
        with pytest.raises(ValueError, match="mean@k"):
            mean_at_k(right, k)


@pytest.mark.parametrize(("gained", "lost"), [(1, 0), (5, 5), (12, 3), (207, 9), (0, 6)])
def test_mcnemar_is_statsmodels(gained, lost):
    both, neither = 40, 30
    first = [False] * gained + [True] * lost + [True] * both + [False] * neither
    second = [True] * gained + [False] * lost + [True] * both + [False] * neither
    found = mcnemar(first, second)
    assert (found.gained, found.lost) == (gained, lost)
    table = [[both, lost], [gained, neither]]
    assert found.p_value == pytest.approx(statsmodels_mcnemar(table, exact=True).pvalue, rel=1e-9)


def test_mcnemar_by_hand():
    assert mcnemar([0, 0, 0, 0, 0], [1, 1, 1, 1, 1]).p_value == pytest.approx(2 / 2**5)
    assert mcnemar([1, 0], [1, 0]) == (0, 0, 1.0)
    with pytest.raises(ValueError, match="zip"):
        mcnemar([1], [1, 0])


def test_bootstrap_is_scipys_within_its_own_noise():
    values = np.random.default_rng(3).choice([-1.0, 0.0, 0.25, 1.0], size=400, p=[0.1, 0.5, 0.2, 0.2])
    interval = stats.bootstrap((values,), np.mean, n_resamples=10_000, method="percentile", rng=1).confidence_interval
    assert bootstrap_mean(values) == pytest.approx((interval.low, interval.high), abs=0.004)


def test_paired_difference_uses_the_pairs():
    first = [0.0, 1.0] * 200
    second = [0.0, 1.0] * 190 + [1.0, 1.0] * 10
    mean, low, high = paired_difference(first, second)
    assert mean == pytest.approx(10 / 400)
    assert 0.0 < low < mean < high < 0.05  # unpaired it would be about +-0.07
    assert paired_difference(second, first) == pytest.approx((-mean, -high, -low), abs=0.004)
    assert paired_difference(first, first) == (0.0, 0.0, 0.0)
    assert paired_difference(first, second) == paired_difference(first, second)


def test_bootstrap_without_items():
    for call in (lambda: bootstrap_mean([]), lambda: paired_difference([], [])):
        with pytest.raises(ValueError, match="at least one item"):
            call()
    with pytest.raises(ValueError, match="zip"):
        paired_difference([1.0], [1.0, 0.0])
