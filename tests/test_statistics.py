import pytest
from statsmodels.stats.proportion import proportion_confint

from areal_gsm8k.statistics import wilson_interval


@pytest.mark.parametrize(("successes", "n"), [(0, 10), (10, 10), (7, 10), (1055, 1319), (1, 1)])
def test_wilson_is_statsmodels(successes, n):
    assert wilson_interval(successes, n) == pytest.approx(proportion_confint(successes, n, method="wilson"), abs=1e-9)


def test_nothing_measured_and_nonsense():
    assert wilson_interval(0, 0) == (0.0, 1.0)
    with pytest.raises(ValueError, match="successes=3"):
        wilson_interval(3, 2)
