"""The expected band of a recipe: for every few steps the range of the reward in recorded runs of several seeds.

    gsm8k band runs/tiny-grpo/seed1 ... runs/tiny-grpo/seed5 --out configs/bands/cpu.json
    ./run train expected_band=configs/bands/cpu.json          # a recipe's YAML names its band

Both the smoothed reward (watch/trend.py) and its gain since the start are recorded, because seeds start from
different models: a run from a weak start is compared by its gain. The range is the lowest and the highest of the
runs, widened on each side by MARGIN standard errors of the difference of two such values, so that sampling alone seldom
leads out of it. A band holds only for the recipe it was recorded with: the keys in RECIPE must be the same.
"""

from __future__ import annotations

import json
import math
import re
import shlex
import time
from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from areal_gsm8k.dotted_keys import leaves, lookup
from areal_gsm8k.grading.rewards import PARTS
from areal_gsm8k.paths import PROJECT
from areal_gsm8k.runs.files import write_atomically
from areal_gsm8k.runs.run import Run
from areal_gsm8k.watch.trend import WINDOW, Trend

EVERY = 5  # steps between two entries
MARGIN = 2.0  # standard errors
# The keys that decide how the reward moves; seed, hardware, row counts of evaluations and leading folders do not.
RECIPE = (
    "actor.path", "actor.dtype", "answer_format", "system_prompt", "train_dataset.path", "train_dataset.batch_size",
    "train_dataset.shuffle", "data.train_rows", "total_train_epochs", "gconfig",
    *(f"reward.{key}" for name, part in PARTS.items() for key in (name, *part.keys)), "reward.shuffled",
    "rollout.max_head_offpolicyness",
    "actor.optimizer", "actor.eps_clip", "actor.eps_clip_higher", "actor.c_clip", "actor.ppo_n_minibatches",
    "actor.reward_norm", "actor.adv_norm", "actor.reward_scaling", "actor.reward_bias", "actor.kl_ctl",
    "actor.recompute_logprob", "actor.use_decoupled_loss", "actor.rejection_sampling", "drop_groups_without_signal",
    "dynamic_bs",
)  # fmt: skip
NAMES = ("actor.path", "train_dataset.path")  # only the last part of these counts: the same model in another folder
NO_KL = 1e-6  # a smaller coefficient only makes AReaL keep the reference policy, so that its KL can be logged
TINY_MODEL = re.compile(r"tiny-seed\d+-[0-9a-f]{12}")  # sft/tiny.py names its folders so


class BandError(ValueError):
    """A band that cannot be read or recorded; the message names the file, what was found and what to do."""


class Range(NamedTuple):
    """The smoothed rewards, and the gains, of the recorded runs after some step."""

    low: float
    high: float
    gain_low: float
    gain_high: float


@dataclass(frozen=True)
class Band:
    """Ranges of the smoothed training reward; `low[i]` to `high[i]` after `steps[i]` steps."""

    recipe: dict[str, Any]  # {key of RECIPE, with its leaves: value}
    facts: dict[str, Any]  # commands, seeds, hardware, date, grader
    runs: int
    steps: list[int]
    low: list[float]
    high: list[float]
    gain_low: list[float]  # since the mean of the first steps
    gain_high: list[float]

    @classmethod
    def read(cls, path: Path | str) -> Band:
        """The band of a file. Raises BandError."""
        try:
            band = cls(**json.loads(Path(path).read_text(encoding="utf-8")))
            if not band.steps or {len(band.steps)} != {len(series) for series in band._series()}:
                raise ValueError(f"{len(band.steps)} steps, and not as many values of each kind")
        except FileNotFoundError:
            raise BandError(f"{path}: no such file. Record one with `gsm8k band RUN RUN ... --out {path}`.") from None
        except (OSError, TypeError, ValueError) as problem:
            raise BandError(f"{path} is not a band as `gsm8k band` writes it: {problem}") from None
        return band

    def write(self, path: Path) -> None:
        values = asdict(self)
        lines = (
            f'  "{name}": {json.dumps(value, ensure_ascii=False)}' for name, value in values.items()
        )  # a line each
        write_atomically(path, "{\n" + ",\n".join(lines) + "\n}\n")

    def at(self, step: int) -> Range | None:
        """The range after `step` steps, between two entries by straight line; None before the first.

        After the last entry the range stays as it is there: the schedule of the recipe has ended.
        """
        if step < self.steps[0]:
            return None
        left = bisect_right(self.steps, step) - 1
        right = min(left + 1, len(self.steps) - 1)
        width = self.steps[right] - self.steps[left]
        part = (step - self.steps[left]) / width if width else 0.0
        return Range(*(series[left] + part * (series[right] - series[left]) for series in self._series()))

    def differences(self, config: dict) -> dict[str, tuple[Any, Any]]:
        """{key: (recorded with, found)} where a configuration is not the recipe; empty when the band applies."""
        return _differences(self.recipe, recipe(config))

    def _series(self) -> tuple[list[float], ...]:
        return self.low, self.high, self.gain_low, self.gain_high


def configured(config: dict) -> Band | None:
    """The band a configuration names, whether it applies or not; None where it names none. Raises BandError.

    A relative name is a file of the working directory or, where none is there, of the project.
    """
    file = config.get("expected_band")
    if not file:
        return None
    ours = PROJECT / file
    return Band.read(ours if ours.exists() and not Path(file).exists() else file)


def band_of(run: Run) -> Band | None:
    """The band to hold a run against: the one it names, if it was recorded with the run's recipe. Raises BandError."""
    config = run.read_config()
    band = configured(config)
    return None if band is None or band.differences(config) else band


def recipe(config: dict) -> dict[str, Any]:
    """The part of a configuration that a band depends on, as {dotted key: value}, without the keys that are not set."""
    found = {
        key: value for name in RECIPE for key, value in leaves(lookup(config, name), name).items() if value is not None
    }
    if abs(found.get("actor.kl_ctl", 0.0)) < NO_KL:
        found["actor.kl_ctl"] = 0.0
    for name in NAMES:
        last = Path(str(found.get(name, ""))).name
        found[name] = "tiny" if TINY_MODEL.fullmatch(last) else last
    return found


def _differences(then: dict, found: dict) -> dict[str, tuple[Any, Any]]:
    keys = sorted(then.keys() | found.keys())
    return {key: (then.get(key), found.get(key)) for key in keys if then.get(key) != found.get(key)}


def record(runs: list[Run], hardware: str) -> Band:
    """The band of finished runs of one recipe, at least two. Raises BandError naming the run that does not fit."""
    if len(runs) < 2:
        raise BandError(f"a band needs at least 2 runs, found {len(runs)}; five seeds make one worth shipping.")
    configs = [run.read_config() for run in runs]
    for run, config in zip(runs, configs, strict=True):
        if run.read_summary() is None:
            raise BandError(f"{run.root}: no finished run there (no summary.json).")
        if other := _differences(recipe(configs[0]), recipe(config)):
            raise BandError(f"{run.root} is of another recipe than {runs[0].root}: {next(iter(other))} differs.")
    trends = [Trend(run.read_metrics(), config) for run, config in zip(runs, configs, strict=True)]
    length = min(len(trend.rewards) for trend in trends)
    if length < WINDOW:
        raise BandError(f"the shortest of the runs has {length} steps; a band begins at step {WINDOW}.")
    steps = list(range(WINDOW, length + 1, EVERY))
    ranges = [_range(trends, step) for step in steps]
    launches = [run.read_launches() for run in runs]
    facts = {
        "commands": [_without_places(launch[0]["command"]) for launch in launches if launch],
        "seeds": [config.get("seed") for config in configs],
        "hardware": hardware,
        "date": time.strftime("%Y-%m-%d", time.gmtime(max(launch[-1]["time"] for launch in launches if launch))),
        "grader": sorted({run.read_summary()["grader"] for run in runs}),
    }
    series = ([round(value, 4) for value in values] for values in zip(*ranges, strict=True))
    return Band(recipe(configs[0]), facts, len(runs), steps, *series)


def _without_places(command: str) -> str:
    """A command line without the folder and the name of its run, which are of no use to others."""
    own = ("runs_dir=", "experiment_name=", "trial_name=")
    parts = [part for part in shlex.split(command) if not part.startswith(own)]
    return shlex.join("/".join(Path(part).parts[-2:]) if Path(part).is_absolute() else part for part in parts)


def _range(trends: list[Trend], step: int) -> Range:
    levels, firsts = [trend.level(step) for trend in trends], [trend.first() for trend in trends]
    pairs = list(zip(levels, firsts, strict=True))
    values, gains = [level.value for level in levels], [level.value - first.value for level, first in pairs]
    room = _room(level.error for level in levels)
    gain_room = _room(math.hypot(level.error, first.error) for level, first in pairs)
    return Range(min(values) - room, max(values) + room, min(gains) - gain_room, max(gains) + gain_room)


def _room(errors: Iterable[float]) -> float:
    """The width that sampling adds to the range: MARGIN standard errors of the difference of two typical values."""
    return MARGIN * math.sqrt(2 * fmean(error**2 for error in errors))
