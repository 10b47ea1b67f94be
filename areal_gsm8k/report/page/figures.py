"""The charts as bokeh figures. Text and grid take their colours from style.css, so that they follow light and dark.

One run: a colour for each series. Several: a colour for each run and a dash for each series. All values of a chart lie
in one table by step, so one tooltip shows them all.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from html import escape

import numpy as np
from bokeh.document import Document
from bokeh.models import ColumnDataSource, CrosshairTool, HoverTool, NumeralTickFormatter, PrintfTickFormatter
from bokeh.plotting import figure
from bokeh.settings import settings

from areal_gsm8k.report.curves import FEW, curves
from areal_gsm8k.report.page.chart_list import Chart, Series
from areal_gsm8k.watch.trend import smooth

# After Okabe and Ito's colours for every kind of colour vision, of a lightness that is seen on white and on black.
COLOURS = ("#1a86c7", "#d55e00", "#009e73", "#cc79a7", "#c98a00", "#8e6bbf", "#8a7551", "#7d8894")
DASHES = ("solid", "dashed", "dotted", "dotdash", "dashdot")
FONT = "system-ui, sans-serif"
POINTS = 3000  # of all curves in one chart; longer ones are drawn at every so many steps
FAINT = 2  # runs whose recorded values are drawn under the smoothed ones; of more they would hide each other
HOVER = {"share": "0.0%", "number": "%.4g", "small": "%.2e"}


@dataclass(frozen=True)
class Curves:
    """One run as the charts need it: its name, its rows of metrics by step without nulls, and the expected band."""

    name: str
    rows: list[dict]
    band: object | None = None  # watch/band.py


@dataclass(frozen=True)
class Column:
    """One curve of a chart: a series of a run, with the name of its values in the chart's table."""

    name: str
    series: Series
    run: int
    colour: str
    dash: str


@dataclass(frozen=True)
class Drawn:
    """A chart in the page; plot: None where there was nothing to draw; legend: (label, colour, dash)."""

    chart: Chart
    plot: figure | None
    legend: list[tuple[str, str, str]]
    last: str | None  # of a single curve


def draw(chart: Chart, runs: list[Curves]) -> Drawn:
    """One chart over all runs; each run's rows hold `step` and whatever of the chart's metrics it has."""
    columns = _columns(chart, runs)
    if not columns:
        return Drawn(chart, None, [], None)
    source = ColumnDataSource(_table(chart, columns, runs))
    plot = _empty(chart)
    if chart.name == "reward":
        _band(plot, runs)
    if chart.stacked:
        names, colours = [column.name for column in columns], [column.colour for column in columns]
        plot.varea_stack(names, x="step", source=source, color=colours, fill_alpha=0.75)
        plot.y_range.start = 0
    else:
        for column in columns:
            _curve(plot, chart, column, source, faint=len(runs) <= FAINT)
    _hover(plot, chart, columns, source, runs)
    return Drawn(chart, plot, _legend(columns, runs), _last(chart, columns, runs))


def for_the_browser(charts: list[Drawn]) -> dict:
    """The arguments of BokehJS's embed_items: one document of all charts, each in the element `chart-NAME`."""
    document, places = Document(), {}
    for drawn in charts:
        if drawn.plot is not None:
            document.add_root(drawn.plot)
            places[drawn.plot.id] = f"chart-{drawn.chart.name}"
    item = {"docid": "charts", "roots": places, "root_ids": list(places)}
    return {"documents": {"charts": document.to_json(deferred=False)}, "items": [item] if places else []}


def _columns(chart: Chart, runs: list[Curves]) -> list[Column]:
    """The curves there are values for."""
    several, found = len(runs) > 1, []
    for at, run in enumerate(runs):
        for number, one in enumerate(chart.series):
            if any(one.key in row for row in run.rows):
                colour = COLOURS[(at if several else number) % len(COLOURS)]
                dash = DASHES[number % len(DASHES)] if several or not (chart.smooth or chart.dots) else "solid"
                found.append(Column(f"v{at}_{number}", one, at, colour, dash))
    if chart.name == "parts" and len({column.series for column in found}) < 2:
        return []  # a reward of one part is drawn already
    return found


def _table(chart: Chart, columns: list[Column], runs: list[Curves]) -> dict[str, np.ndarray]:
    """Values by step, NaN where there is none: NAME as recorded (stacked: smoothed), NAME_mean, NAME_low, NAME_high.

    `anchor` is some value of each step, for the tooltip to hold on to.
    """
    keys = {column.series.key for column in columns}
    steps = sorted({row["step"] for run in runs for row in run.rows if not keys.isdisjoint(row)})
    every = math.ceil(len(steps) * len(runs) / POINTS)
    kept = sorted({*steps[::every], steps[-1]})
    table = {"step": np.array(kept, dtype=np.int32)}
    anchor = np.full(len(kept), np.nan)
    for column in columns:
        rows = [row for row in runs[column.run].rows if column.series.key in row]
        for ending, values in _curves_of(chart, column.series.key, rows).items():
            at = dict(zip((row["step"] for row in rows), values, strict=True))
            missing = 0.0 if chart.stacked else math.nan
            table[column.name + ending] = np.array([at.get(step, missing) for step in kept], dtype=np.float32)
        anchor = np.where(np.isnan(anchor), table[column.name], anchor)
    return table | {"anchor": anchor}


def _curves_of(chart: Chart, key: str, rows: list[dict]) -> dict[str, list[float]]:
    """A metric's curves (report/curves.py); of what is stacked the smoothed one alone."""
    return {"": smooth([row[key] for row in rows])} if chart.stacked else curves(key, rows, chart.smooth)


def _empty(chart: Chart) -> figure:
    """A figure without anything in it, as wide as its place."""
    plot = figure(
        height=210, sizing_mode="stretch_width", tools="", toolbar_location=None, min_border_left=46,
        min_border_right=8, y_axis_type="log" if chart.logarithmic else "linear", background_fill_color=None,
        border_fill_color=None, outline_line_color=None,
    )  # fmt: skip
    plot.xgrid.visible = False
    plot.x_range.range_padding = 0.01
    for axis in plot.axis:
        axis.axis_line_color = axis.minor_tick_line_color = axis.major_tick_line_color = None
        axis.major_label_text_font, axis.major_label_text_font_size = FONT, "11px"
        axis.ticker.desired_num_ticks = 5
    if chart.unit == "share":
        plot.yaxis.formatter = NumeralTickFormatter(format="0%")
    elif chart.unit == "small":
        plot.yaxis.formatter = PrintfTickFormatter(format="%.0e" if chart.logarithmic else "%.1e")
    return plot


def _band(plot: figure, runs: list[Curves]) -> None:
    """The expected band of the first run that has one."""
    band = next((run.band for run in runs if run.band is not None), None)
    if band is not None:
        plot.varea(band.steps, band.low, band.high, fill_color="#8a94a0", fill_alpha=0.22)


def _curve(plot: figure, chart: Chart, column: Column, source: ColumnDataSource, faint: bool) -> None:
    """One curve: the smoothed one bold over the recorded one, or the recorded one, with dots where they are few."""
    name, known = column.name, ~np.isnan(source.data[column.name])
    if not known.all():  # a line would break at every step without a value
        source = ColumnDataSource({key: values[known] for key, values in source.data.items()})
    look = {"source": source, "color": column.colour, "name": str(column.run)}
    if f"{name}_low" in source.data:
        area = {"fill_color": column.colour, "fill_alpha": 0.2, "source": source, "name": str(column.run)}
        plot.varea("step", f"{name}_low", f"{name}_high", **area)
    if chart.dots or len(source.data["step"]) <= FEW:
        plot.scatter("step", name, size=4, **look, alpha=0.7 if chart.dots else 1.0)
    if f"{name}_mean" in source.data:
        if faint:
            plot.line("step", name, **look, line_alpha=0.33)
        plot.line("step", f"{name}_mean", **look, line_width=2, line_dash=column.dash)
    elif not chart.dots:
        plot.line("step", name, **look, line_width=2, line_dash=column.dash)


def _hover(plot: figure, chart: Chart, columns: list[Column], source: ColumnDataSource, runs: list[Curves]) -> None:
    """One tooltip with all values of the step under the pointer."""
    anchor = plot.line("step", "anchor", source=source, alpha=0)
    if len(source.data["step"]) == 1:
        anchor = plot.scatter("step", "anchor", source=source, alpha=0, size=40)
    rows = "".join(
        f'<tr><td><span style="color:{column.colour}">&#9632;</span> {_plain(_label(column, columns, runs))}</td>'
        f'<td style="text-align:right;padding-left:1em">@{column.name}{{{HOVER[chart.unit]}}}</td></tr>'
        for column in columns
    )
    tooltip = f'<table style="font-variant-numeric:tabular-nums"><tr><td colspan="2">step @step</td></tr>{rows}</table>'
    formats = {f"@{column.name}": "numeral" if chart.unit == "share" else "printf" for column in columns}
    plot.add_tools(
        HoverTool(
            renderers=[anchor], mode="vline", tooltips=tooltip, formatters=formats, line_policy="nearest",
            point_policy="follow_mouse", attachment="horizontal",
        ),
        CrosshairTool(dimensions="height", line_color="#8a94a0", line_alpha=0.6),
    )  # fmt: skip


def _label(column: Column, columns: list[Column], runs: list[Curves]) -> str:
    """What tells a curve from the others of its chart."""
    parts = [runs[column.run].name] if len(runs) > 1 else []
    if len(runs) == 1 or len({one.series for one in columns}) > 1:
        parts.append(column.series.label)
    return ", ".join(parts)


def _plain(text: str) -> str:
    """Text inside bokeh's HTML tooltip: neither a tag nor one of its @names and $names."""
    return escape(text).replace("@", "&#64;").replace("$", "&#36;")


def _legend(columns: list[Column], runs: list[Curves]) -> list[tuple[str, str, str]]:
    """Runs by colour, series by dash; nothing where one curve needs no name."""
    of_run, of_series = ({getattr(column, by): column for column in columns} for by in ("run", "series"))
    legend = [(runs[at].name, column.colour, "solid") for at, column in of_run.items()] if len(runs) > 1 else []
    if len(of_series) > 1:
        colours = {one: "" if len(runs) > 1 else column.colour for one, column in of_series.items()}
        legend += [(one.label, colours[one], column.dash) for one, column in of_series.items()]
    return legend


def _last(chart: Chart, columns: list[Column], runs: list[Curves]) -> str | None:
    """The newest value of a chart's only curve, as it is drawn."""
    if len(columns) > 1:
        return None
    rows = [row for row in runs[columns[0].run].rows if columns[0].series.key in row]
    values = list(_curves_of(chart, columns[0].series.key, rows).values())
    newest = values[-1][-1]
    number = "{:,.0f}" if abs(newest) >= 100 else "{:.3g}"
    return {"share": "{:.1%}", "number": number, "small": "{:.1e}"}[chart.unit].format(newest)


def bokeh_js() -> str:
    """bokeh's code for the browser, without widgets, tables and WebGL."""
    return (settings.bokehjs_path() / "js" / "bokeh.min.js").read_text(encoding="utf-8")
