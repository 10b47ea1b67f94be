"""The report's HTML: everything is read, drawn and packed here, and the template filled.

Text that a model or a user wrote gets into the page in three ways only: escaped by jinja2, as JSON without `<`, or
packed (embedded_samples.py) and then set as text by the scripts. The page forbids itself to load anything, and to run
any script but its own, by a content security policy with their checksums.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from areal_gsm8k.dotted_keys import leaves
from areal_gsm8k.report import comparison, comparison_table, graded
from areal_gsm8k.report.flips import Flips, flips
from areal_gsm8k.report.gain_split import by_step
from areal_gsm8k.report.page import embedded_samples, evaluations, figures, run_facts
from areal_gsm8k.report.page.chart_list import CHARTS, GAIN
from areal_gsm8k.report.page.run_facts import Facts
from areal_gsm8k.runs import samples
from areal_gsm8k.runs.files import write_atomically

HERE = Path(__file__).parent
SCRIPTS = ("page.js", "flips.js", "samples.js")
LARGEST = 4_900_000  # bytes of the whole file
PLACES = ("trial_name", "experiment_name", "fileroot", "nfs_record_root", "runs_dir")
SPLIT = ("dev/accuracy", "dev/accuracy_strict", "dev/format_rate")


def write(folders: Sequence[Path], file: Path) -> Path:
    """Write the report of some runs, and return its path. Raises RunError for a folder that holds no run."""
    roots = list(dict.fromkeys(folder.resolve() for folder in folders))
    runs = [run_facts.read(root, name) for root, name in zip(roots, _names(roots), strict=True)]
    write_atomically(file, render(runs))
    return file


def _names(roots: list[Path]) -> list[str]:
    """experiment/trial for each run, or as much more of its path as tells it from the others."""
    parts = 2
    while len({root.parts[-parts:] for root in roots}) < len(roots):
        parts += 1
    return ["/".join(root.parts[-parts:]) for root in roots]


def render(runs: list[Facts]) -> str:
    """The page as one text, at most LARGEST bytes where samples are what fills it."""
    curves = [figures.Curves(run.name, run.rows, run.band) for run in runs]
    gains = [figures.Curves(run.name, _gain(run.rows)) for run in runs]
    compared, comparison_error, flipped = _comparison(runs)
    number = "one" if len(runs) == 1 else "several"
    drawn = [figures.draw(chart, curves) for chart in CHARTS if chart.only in (number, "any")]
    gain = figures.draw(GAIN, gains)
    steps = [samples.steps(run.run) for run in runs]
    flip_packs = [embedded_samples.flips(found) if isinstance(found, Flips) else None for found in flipped]
    scripts = [figures.bokeh_js(), *((HERE / name).read_text(encoding="utf-8") for name in SCRIPTS)]
    context = {
        "runs": runs,
        "colours": figures.COLOURS,
        "charts": drawn,
        "gain": gain,
        "compared": compared,
        "comparison_error": comparison_error,
        "flipped": flipped,
        "flips_packed": embedded_samples.FLIPS,
        "evaluated": [evaluations.of_run(run.run.root) for run in runs],
        "faint": len(runs) <= figures.FAINT,
        "differing": _differing([run.config for run in runs]),
        "sampled_steps": steps,
        "style": Markup((HERE / "style.css").read_text(encoding="utf-8")),
        "scripts": [Markup(script) for script in scripts],
        "checksums": [b64encode(sha256(script.encode()).digest()).decode() for script in scripts],
        "data": {
            "charts": figures.for_the_browser([*drawn, gain]),
            "names": [run.name for run in runs],
            "flips": flip_packs,
        },
    }
    template = _template()
    frame = template.render(context | {"samples": [{} for _ in runs]})
    room = (LARGEST - len(frame.encode())) // len(runs)
    packs = [_samples(run, there, room) for run, there in zip(runs, steps, strict=True)]
    return template.render(context | {"samples": packs})


def _samples(run: Facts, steps: list[int], room: int) -> dict[int, str]:
    """Its samples by step, as many steps as fit."""
    rejected = embedded_samples.rejected_by_step(run.run)
    return embedded_samples.fitting(
        steps, lambda step: embedded_samples.samples(run.run, step, rejected.get(step, [])), room
    )


def _gain(rows: list[dict]) -> list[dict]:
    """The gain split of each dev evaluation that recorded all of it."""
    return by_step([row for row in rows if all(name in row for name in SPLIT)])


def _comparison(runs: list[Facts]) -> tuple[dict | None, str | None, list[Flips | str]]:
    """The table over the starts and ends of all runs, or why there is none; and each run's flips, or why not."""
    models, reasons, flipped = [], [], []
    for run in runs:
        try:
            if not run.config:
                raise graded.GradedError(f"{run.run.root}: has no config.yaml, so how it was measured is not known")
            found = [_named(run, one) for one in graded.read(str(run.run.root))]
            models += found
            flipped.append(flips(*found) if len(found) == 2 else "There is one evaluation; flips need two.")
        except (ValueError, KeyError, OSError) as error:
            reasons.append(str(error))
            flipped.append(str(error))
    if reasons:
        return None, "; ".join(reasons), flipped
    try:
        return comparison.compare(models), None, flipped
    except graded.GradedError as error:
        return None, str(error), flipped


def _named(run: Facts, model: graded.Graded) -> graded.Graded:
    """With the run's name as the page has it: "grpo, start" becomes "tiny-grpo/grpo, start"."""
    return replace(model, name=run.name + model.name.removeprefix(run.run.root.name))


def _differing(configs: list[dict]) -> list[tuple[str, list[str]]]:
    """Configuration keys that are not the same in all runs, with each run's value; names and places left out."""
    flat = [leaves(config) for config in configs]
    keys = dict.fromkeys(key for config in flat for key in config)
    rows = [(key, [str(config.get(key, "not set")) for config in flat]) for key in keys]
    return [
        (key, [run_facts.masked(f"{key}: {value}").partition(": ")[2] for value in values])
        for key, values in rows
        if len(set(values)) > 1 and key.rsplit(".", 1)[-1] not in PLACES
    ]


def _template():
    environment = Environment(loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined)
    environment.trim_blocks = environment.lstrip_blocks = True
    environment.policies["json.dumps_kwargs"] = {"sort_keys": False}  # bokeh's models name those before them
    environment.globals |= {
        "cells": comparison_table.cells,
        "comparison_headers": comparison_table.HEADERS,
        "comparison_title": comparison_table.title,
        "comparison_explanation": comparison_table.EXPLANATION,
        "environment_lines": run_facts.environment_lines,
        "rates": evaluations.rates,
        "how": evaluations.how,
    }
    return environment.get_template("page.html")
