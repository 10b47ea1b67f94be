"""Is a run on track? One of five states in one line with its numbers, and the likely causes with what to try.

    verdict.of_run(Run("runs/tiny-grpo/20261121_101500"))     # what the live view, `gsm8k watch` and the report show

A verdict depends only on the rows of metrics.jsonl, the run's configuration, and the recipe's expected band where it
has one (watch/band.py). STATES is a list of rules; the first one that applies names the state. docs/verdict.md explains
every rule with its numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace

from areal_gsm8k.runs.run import Run
from areal_gsm8k.settings import CollapseSettings
from areal_gsm8k.watch import band
from areal_gsm8k.watch.band import Band, BandError, Range
from areal_gsm8k.watch.diagnosis import COLLAPSING, FLAT, ON_TRACK, SLOW, TOO_EARLY, Case, Cause, likely
from areal_gsm8k.watch.trend import EARLIEST, SURE, VERY_SURE, WINDOW, Level, Trend

UNDECIDED = 2 * WINDOW  # steps in which a run without a band may show no rise yet
CEILING, SATURATED = 0.95, 0.9  # shares of the highest reward: at it, and at it once few groups have signal
FEW = 0.2  # of the groups
UNSURE = 0.1  # nats a token: with less entropy a policy is nearly always sure of the next token, however it began
NEARLY_ALL = 0.95  # of the groups without signal: nothing is learned


@dataclass(frozen=True)
class RunVerdict:
    """`state` is one of the five in watch/diagnosis.py; `summary` one line; `causes` the likeliest first."""

    state: str
    step: int
    summary: str
    causes: list[Cause]

    def line(self) -> str:
        return f"{self.state}: {self.summary}"


def cause_line(cause: Cause) -> str:
    return f"{cause.what} ({cause.evidence}); try {cause.try_}"


def of_run(run: Run) -> RunVerdict:
    """The verdict on a run directory as it is now."""
    config = run.read_config()
    trend = Trend(run.read_metrics(), config)
    try:
        expected = band.configured(config)
    except BandError as trouble:
        return _noted(judge(trend), f"no band: {trouble}")
    return judge(trend, expected)


def judge(trend: Trend, expected: Band | None = None) -> RunVerdict:
    """The verdict on a trend; a band recorded with another recipe is not applied, and the summary says why."""
    recorded = expected.differences(trend.config) if expected else {}
    standing = Standing(trend, expected.at(trend.step) if expected and not recorded else None)
    state, summary = next((state, said) for state, rule in STATES if (said := rule(standing)))
    causes = likely(Case(trend, state, recorded))
    verdict = RunVerdict(state, trend.step, summary, causes)
    return _noted(verdict, f"no band: {_difference(recorded)}") if recorded else verdict


def _noted(verdict: RunVerdict, note: str) -> RunVerdict:
    return replace(verdict, summary=f"{verdict.summary} ({note})")


def _difference(recorded: dict) -> str:
    key, (then, found) = next(iter(recorded.items()))
    more = f" and {len(recorded) - 1} more keys differ" if len(recorded) > 1 else ""
    return f"{key} is {found}, recorded with {then}{more}"


@dataclass(frozen=True)
class Standing:
    """What the rules of STATES look at: the trend, and the band's range at this step where there is one."""

    trend: Trend
    range: Range | None

    @property
    def limits(self) -> CollapseSettings:
        return CollapseSettings(**asdict(CollapseSettings()) | self.trend.get("collapse", {}))

    @property
    def count(self) -> int:
        return len(self.trend.rewards)


# Collapsing


def not_a_number(standing: Standing) -> str | None:
    names = ("loss", "grad_norm", "entropy", "reward")
    last = standing.trend.all_rows[-3:]
    for name in names:
        if len(last) == 3 and all(row.get(name) is not None and not math.isfinite(row[name]) for row in last):
            return f"{name} has not been a number for 3 steps"
    return None


def reward_fell(standing: Standing) -> str | None:
    best = standing.trend.fallen_from()
    low, _ = standing.trend.bounds() if best else (0.0, 0.0)
    if best is None or standing.trend.level().value - low >= standing.limits.reward * (best.value - low):
        return None
    return f"reward {_level(standing.trend.level())} fell from its best, {best.value:.2f} at step {best.step}"


def dev_accuracy_fell(standing: Standing) -> str | None:
    """Dev accuracy fell by the share of `collapse.reward`, and by more than the sampling of the dev rows explains."""
    dev = standing.trend.dev
    if len(dev) < 2 or not standing.trend.rows or not standing.trend.pays_for_answers():
        return None
    best, last = max(dev, key=lambda row: row["dev/accuracy"]), dev[-1]
    halved = last["dev/accuracy"] < standing.limits.reward * best["dev/accuracy"]
    if not halved or _dev_difference(last, best) < VERY_SURE:
        return None
    return f"dev accuracy fell from {best['dev/accuracy']:.0%} at step {best['step']} to {last['dev/accuracy']:.0%}"


def entropy_exploded(standing: Standing) -> str | None:
    now, before = standing.trend.now("entropy"), standing.trend.start("entropy")
    if standing.count < EARLIEST or now is None or now < max(standing.limits.entropy * before, UNSURE):
        return None
    return f"entropy went from {before:.2f} to {now:.2f} nats a token: the text is turning into noise"


def truncation_took_over(standing: Standing) -> str | None:
    now, before = standing.trend.now("truncated"), standing.trend.start("truncated")
    if standing.count < EARLIEST or now is None or now < standing.limits.truncated or before > now / 2:
        return None
    return f"{now:.0%} of the completions run into the limit of tokens, {before:.0%} did at the start"


def engines_apart(standing: Standing) -> str | None:
    drift = standing.trend.now("logprob_drift")
    if standing.count < EARLIEST or drift is None or drift < standing.limits.logprob_drift:
        return None
    return f"rollout and trainer logprobs differ by {drift:.2f} nats a token"


# Without a collapse


def first_steps(standing: Standing) -> str | None:
    if standing.count >= EARLIEST:
        return None
    reward = f", reward {_level(standing.trend.level())}" if standing.count else ""
    return f"{standing.count} of the {EARLIEST} steps it takes to judge{reward}"


def at_the_ceiling(standing: Standing) -> str | None:
    now, none = standing.trend.level(), standing.trend.now("groups_without_signal") or 0.0
    share, saturated = standing.trend.share(now.value), none > 1 - FEW
    if share < (SATURATED if saturated else CEILING) or (standing.trend.get("reward.custom") and not saturated):
        return None  # how high a function of the user's own goes is not known
    height = f"{share:.0%} of the highest"
    return f"reward {_level(now)} is at the ceiling, {height}; {none:.0%} of the groups have no signal"


def no_signal(standing: Standing) -> str | None:
    none = standing.trend.now("groups_without_signal")
    if none is None or none < NEARLY_ALL:
        return None
    return f"reward {_level(standing.trend.level())}; {none:.0%} of the groups have no signal, so nothing is learned"


def in_the_band(standing: Standing) -> str | None:
    expected, now, gain = standing.range, standing.trend.level(), _gain(standing)
    if expected is None or (now.value < expected.low and gain < expected.gain_low):
        return None
    if now.value >= expected.low:
        where = "above" if now.value > expected.high else "within"
        return f"reward {_level(now)}, {where} the expected {expected.low:.2f} to {expected.high:.2f}"
    return (
        f"reward {_level(now)} from a weak start: below the expected {expected.low:.2f}, but its gain of {gain:+.2f} "
        f"is not below {expected.gain_low:+.2f}"
    )


def fell_back(standing: Standing) -> str | None:
    """The reward is below its best beyond doubt, though not collapsing: the run loses its gains."""
    best = standing.trend.fallen_from()
    if best is None:
        return None
    return f"reward {_level(standing.trend.level())}, down from its best, {best.value:.2f} at step {best.step}"


def rising(standing: Standing) -> str | None:
    """The reward rises, over the whole run or lately; for a run below its band, rising is not enough."""
    if standing.range is not None:
        return None
    whole, late = standing.trend.rise(), standing.trend.rise(UNDECIDED)
    steeper = max(whole, late, key=lambda slope: slope.z)
    if steeper.z < SURE:
        return None
    over = "whole run" if steeper.steps == standing.count else f"last {steeper.steps}"
    ten = f"{steeper.value * 10:+.3f} +- {steeper.error * 10:.3f} in 10 steps"
    return f"reward {_level(standing.trend.level())} rises, {ten} over the {over}"


def dev_accuracy_rose(standing: Standing) -> str | None:
    """Dev accuracy rose by more than its sampling explains; the reward may hide that where groups are dropped."""
    dev = standing.trend.dev
    if standing.range is not None or len(dev) < 2 or _dev_difference(dev[0], dev[-1]) < SURE:
        return None
    rose = f"dev accuracy rose from {dev[0]['dev/accuracy']:.0%} to {dev[-1]['dev/accuracy']:.0%}"
    return f"reward {_level(standing.trend.level())}; {rose}"


def undecided(standing: Standing) -> str | None:
    least = WINDOW if standing.range else UNDECIDED
    if standing.count >= least:
        return None
    return f"reward {_level(standing.trend.level())}; its rise is judged from step {least} on"


def below_the_band(standing: Standing) -> str | None:
    if standing.range is None or max(standing.trend.rise().z, standing.trend.rise(UNDECIDED).z) < SURE:
        return None
    least = f"at least {standing.range.low:.2f} or a gain of {standing.range.gain_low:+.2f}"
    reward = f"reward {_level(standing.trend.level())}, a gain of {_gain(standing):+.2f}"
    return f"{reward}: rising, but {least} is expected here"


def not_rising(standing: Standing) -> str:
    now, first = standing.trend.level(), standing.trend.first()
    expected = f"; {standing.range.low:.2f} to {standing.range.high:.2f} is expected here" if standing.range else ""
    return (
        f"reward {_level(now)} after {first.value:.2f} in the first steps: no rise to be told from noise in "
        f"{standing.count} steps{expected}"
    )


def _level(level: Level) -> str:
    return f"{level.value:.2f} +- {level.error:.2f}"


def _dev_difference(lower: dict, higher: dict) -> float:
    """How many standard errors the second dev accuracy is above the first, one right and one wrong row added to each.

    Agresti and Caffo (2000), Simple and effective confidence intervals for proportions and differences of proportions,
    The American Statistician 54, 280-288.
    """
    shares = [(row["dev/accuracy"] * row["dev/n"] + 1) / (row["dev/n"] + 2) for row in (lower, higher)]
    errors = [share * (1 - share) / (row["dev/n"] + 2) for share, row in zip(shares, (lower, higher), strict=True)]
    return (shares[1] - shares[0]) / math.sqrt(sum(errors))


def _gain(standing: Standing) -> float:
    return standing.trend.level().value - standing.trend.first().value


STATES: tuple[tuple[str, Callable[[Standing], str | None]], ...] = (
    (COLLAPSING, not_a_number),
    (COLLAPSING, reward_fell),
    (COLLAPSING, dev_accuracy_fell),
    (COLLAPSING, entropy_exploded),
    (COLLAPSING, truncation_took_over),
    (COLLAPSING, engines_apart),
    (TOO_EARLY, first_steps),
    (ON_TRACK, at_the_ceiling),
    (FLAT, no_signal),
    (TOO_EARLY, undecided),
    (ON_TRACK, in_the_band),
    (FLAT, fell_back),
    (ON_TRACK, rising),
    (ON_TRACK, dev_accuracy_rose),
    (SLOW, below_the_band),
    (FLAT, not_rising),
)
