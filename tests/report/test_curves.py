"""Picture and page draw the same curves."""

import math

import matplotlib.pyplot as plt
import numpy as np
import pytest
from reported_run import metrics

from areal_gsm8k.report import plots
from areal_gsm8k.report.curves import FEW, curves, merged
from areal_gsm8k.report.page import figures
from areal_gsm8k.report.page.chart_list import CHARTS

REWARD = next(chart for chart in CHARTS if chart.name == "reward")
LONG = [metrics(step, reward=(step * 7 % 5) / 5) for step in range(1, 3 * FEW)]


@pytest.mark.parametrize("rows", [LONG, LONG[:5], [*LONG, metrics(3 * FEW, reward=math.nan)]])
def test_the_bold_curve_of_the_picture_is_that_of_the_page(rows):
    rows = merged(rows)
    drawn = figures.draw(REWARD, [figures.Curves("a", rows)])
    source = next(one.data_source.data for one in drawn.plot.renderers if "anchor" in one.data_source.data)
    figure, axis = plt.subplots()
    plots._curves(axis, rows, {"reward": "reward"}, "training reward")  # noqa: SLF001 - what is drawn
    bold = axis.lines[0].get_ydata()
    plt.close(figure)
    assert np.allclose(bold, source["v0_0_mean" if len(rows) > FEW else "v0_0"])
    assert len(axis.lines) == (2 if len(rows) > FEW else 1)


def test_the_interval_is_of_the_lenient_accuracy_alone():
    rows = [{"step": 0, "dev/accuracy": 0.5, "dev/accuracy_strict": 0.5, "dev/n": 100}]
    assert curves("dev/accuracy_strict", rows) == {"": [0.5]}
    found = curves("dev/accuracy", rows)
    assert found["_low"][0] < 0.5 < found["_high"][0]
