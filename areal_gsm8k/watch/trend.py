"""A run so far: its metrics as series, smoothed, with their sampling error and trend, and the reward's bounds.

    trend = Trend(run.read_metrics(), config)
    trend.now("entropy"), trend.level(), trend.rise()

The verdict's rules (watch/verdict.py, diagnosis.py) and the expected band look at a run through this. Everything
here is plain arithmetic over the rows of metrics.jsonl (docs/metrics.md); docs/verdict.md says why these numbers.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

from areal_gsm8k.dotted_keys import lookup
from areal_gsm8k.grading.rewards import PARTS, WEIGHTED
from areal_gsm8k.settings import RewardSettings

WINDOW = 20  # steps averaged into one smoothed value
EARLIEST = 10  # steps before a reward is judged
SURE = 2.5  # standard errors from which a slope counts as a trend
VERY_SURE = 4.0  # standard errors of a fall from the best of many values, the highest of which is high by luck
FIRST = 5  # steps whose mean is called the start


class Level(NamedTuple):
    """A smoothed value, its standard error, and the step it was reached at."""

    value: float
    error: float
    step: int


class Slope(NamedTuple):
    """Change a step of a straight line through `steps` values, and its standard error."""

    value: float
    error: float
    steps: int

    @property
    def z(self) -> float:
        """How many standard errors the slope is above 0."""
        return self.value / self.error if self.error else math.copysign(math.inf, self.value) if self.value else 0.0


def trimmed_mean(values: Sequence[float]) -> float:
    """The mean without the highest and the lowest tenth, so that one odd step does not move it."""
    cut = len(values) // 10
    kept = sorted(values)[cut : len(values) - cut]
    return math.fsum(kept) / len(kept)


def smooth(values: Sequence[float]) -> list[float]:
    """For every value, the trimmed mean of it and those before it, WINDOW at most."""
    return [trimmed_mean(values[max(0, end - WINDOW) : end]) for end in range(1, len(values) + 1)]


def noise(values: Sequence[float]) -> float:
    """Standard deviation of one value around its trend, from the differences of neighbours (0 for fewer than two).

    A slow trend cancels in neighbours. von Neumann, Kent, Bellinson and Hart (1941), The mean square successive
    difference, Annals of Mathematical Statistics 12, 153-162.
    """
    differences = [(b - a) ** 2 for a, b in itertools.pairwise(values)]
    return math.sqrt(math.fsum(differences) / len(differences) / 2) if differences else 0.0


def slope(values: Sequence[float], deviation: float) -> Slope:
    """Least-squares line through equally spaced values whose noise has this standard deviation."""
    n = len(values)
    centre = (n - 1) / 2
    spread = math.fsum((x - centre) ** 2 for x in range(n))
    if not spread:
        return Slope(0.0, math.inf, n)
    value = math.fsum((x - centre) * y for x, y in enumerate(values)) / spread
    return Slope(value, deviation / math.sqrt(spread), n)


class Trend:
    """The steps of a run and its dev evaluations, seen through its configuration (nested, as in config.yaml)."""

    def __init__(self, rows: list[dict], config: dict):
        self.config = config
        self.all_rows = [row for row in rows if "reward" in row]  # also those with a reward that is no number
        self.rows = [row for row in self.all_rows if _is_number(row["reward"])]
        self.dev = [row for row in rows if row.get("dev/accuracy") is not None]
        self.step = self.rows[-1]["step"] if self.rows else 0
        self.rewards = self.values("reward")
        self.smoothed = smooth(self.rewards)
        self.noise = noise(self.rewards)

    def get(self, key: str, default: Any = None) -> Any:
        """The configuration's value at a dotted key; `default` where it is missing or null."""
        value = lookup(self.config, key)
        return default if value is None else value

    def values(self, name: str) -> list[float]:
        """A metric step by step, without the steps that lack it or have no finite number there."""
        return [row[name] for row in self.rows if _is_number(row.get(name))]

    def now(self, name: str) -> float | None:
        """A metric's smoothed value at the last step; None when no step has it."""
        values = self.values(name)
        return trimmed_mean(values[-WINDOW:]) if values else None

    def start(self, name: str) -> float | None:
        """A metric's mean over the first steps; None when no step has it."""
        values = self.values(name)[:FIRST]
        return math.fsum(values) / len(values) if values else None

    # The reward

    def level(self, at: int | None = None) -> Level:
        """The smoothed reward after `at` steps (default: all), at least one."""
        at = len(self.rewards) if at is None else at
        window = self.rewards[max(0, at - WINDOW) : at]
        return Level(self.smoothed[at - 1], self.error(window), self.rows[at - 1]["step"])

    def error(self, window: Sequence[float]) -> float:
        """Standard error of the mean of these steps' rewards.

        It is computed from the noise of these steps or of the whole run, whichever is larger, because a few steps can
        agree by luck; it is never less than one sample's worth.
        """
        low, high = self.bounds()
        samples = len(window) * self.samples_a_step()
        return max(max(noise(window), self.noise) / math.sqrt(len(window)), (high - low) / samples)

    def fallen_from(self) -> Level | None:
        """The best smoothed reward so far, if the last one is below it beyond doubt."""
        if len(self.rewards) < EARLIEST:
            return None
        best = self.level(max(range(EARLIEST, len(self.rewards) + 1), key=lambda at: self.smoothed[at - 1]))
        now = self.level()
        return best if best.value - now.value > VERY_SURE * math.hypot(best.error, now.error) else None

    def first(self) -> Level:
        """The mean reward of the first steps: where the run began."""
        window = self.rewards[:FIRST]
        return Level(math.fsum(window) / len(window), self.error(window), self.rows[0]["step"])

    def rise(self, steps: int | None = None) -> Slope:
        """The trend of the last so many steps' rewards (default: all)."""
        window = self.rewards if steps is None else self.rewards[-steps:]
        return slope(window, self.error(window) * math.sqrt(len(window)))

    def samples_a_step(self) -> int:
        return self.get("train_dataset.batch_size", 1) * self.get("gconfig.n_samples", 1)

    def bounds(self) -> tuple[float, float]:
        """The lowest and highest mean reward there can be; with a user's own function, those seen so far."""
        weights = asdict(RewardSettings()) | self.get("reward", {})
        ends = [sorted(weights[part] * end for end in PARTS[part].ends) for part in WEIGHTED]
        low, high = (math.fsum(end) for end in zip(*ends, strict=True))
        if weights["custom"]:
            low, high = min(low, *self.rewards), max(high, *self.rewards)
        return low, high

    def pays_for_answers(self) -> bool:
        """Whether the reward pays for right answers, as far as can be known."""
        weights = asdict(RewardSettings()) | self.get("reward", {})
        return bool(weights["accuracy"] or weights["ternary"] or weights["custom"])

    def share(self, reward: float) -> float:
        """Where a reward lies between the lowest (0) and the highest (1) there can be."""
        low, high = self.bounds()
        return (reward - low) / (high - low) if high > low else 0.0


def _is_number(value: Any) -> bool:
    return value is not None and math.isfinite(value)
