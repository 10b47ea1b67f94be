"""Why a run does not learn: rules that look at its metrics, each with a key to try.

Each rule returns its cause with the strength of the evidence, or None; `likely` ranks the causes. A rule knows one
cause and reads it from the metrics, from the configuration and, where the recipe's band was recorded with another
value, from that difference. Users of GRPO trainers ask about these most; docs/verdict.md has the numbers and why.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from areal_gsm8k.data.prompts import FORMATS
from areal_gsm8k.watch.trend import SURE, Trend

ON_TRACK, TOO_EARLY, SLOW, FLAT, COLLAPSING = "on track", "too early", "slow", "flat", "collapsing"

CERTAIN, LIKELY, POSSIBLE = 3, 2, 1  # the configuration says so; a metric says so; nothing speaks against it
RARE, OFTEN, MOST = 0.05, 0.2, 0.8  # shares of completions or groups
TIMES = 3.0  # a factor that noise does not make
STILL, MOVED = 1e-4, 0.05  # nats a token from one policy version to the next: healthy float32 runs lie between
FAR = 1.0  # nats a token from the start model


@dataclass(frozen=True)
class Cause:
    """A likely cause; `try_` names a key and a value."""

    what: str
    evidence: str
    try_: str


CONTROL_RUN = Cause(
    "a control run: the rewards are shuffled",
    "reward.shuffled=true permutes the rewards within each batch, so a flat or falling reward is what is expected",
    "reward.shuffled=false",
)


class Found(NamedTuple):
    strength: int
    cause: Cause


@dataclass(frozen=True)
class Case:
    """A run in some state. `recorded`: {key: (recorded with, found)} where its recipe is not the band's."""

    trend: Trend
    state: str
    recorded: dict[str, tuple[Any, Any]]

    @property
    def rate(self) -> float | None:
        """The configured learning rate."""
        return self.trend.get("actor.optimizer.lr")

    @property
    def recorded_rate(self) -> float | None:
        """The band's learning rate, where it is another one."""
        return self.recorded.get("actor.optimizer.lr", (None, None))[0]

    @property
    def falling(self) -> bool:
        """Whether the reward goes down: it collapses, is below its best, or its trend is."""
        return self.state == COLLAPSING or bool(self.trend.fallen_from()) or self.trend.rise().z < -SURE

    def now(self, name: str) -> float:
        return self.trend.now(name) or 0.0

    def start(self, name: str) -> float:
        return self.trend.start(name) or 0.0


def likely(case: Case) -> list[Cause]:
    """The causes with evidence, strongest first; for a run that is on track or too young only the certain ones."""
    if case.trend.get("reward.shuffled"):
        return [CONTROL_RUN]  # explains whatever else is seen
    found = [finding for rule in RULES if (finding := rule(case))]
    least = CERTAIN if case.state in (ON_TRACK, TOO_EARLY) else POSSIBLE
    return [one.cause for one in sorted(found, key=lambda one: -one.strength) if one.strength >= least]


# The rules


def format_not_followed(case: Case) -> Found | None:
    trend, followed = case.trend, case.trend.now("format_rate")
    if followed is None or followed > RARE or case.start("format_rate") > OFTEN:  # lost on the way: a symptom
        return None
    asked, paid = trend.get("answer_format", "boxed"), trend.get("reward.format", 0.0) > 0
    lenient, strict = case.now("accuracy"), case.now("accuracy_strict")
    evidence = f"format_rate {followed:.0%}: answers in answer_format={asked}"
    if lenient > strict + RARE:
        evidence += f"; {lenient:.0%} are right in some form, {strict:.0%} in the asked one"
    others = " or ".join(name for name in FORMATS if name != asked)
    cause = Cause(
        f"nobody follows the format {asked}",
        evidence + ("; reward.format pays for nothing else" if paid else ""),
        f"answer_format={others}, or teach the form first (train_local_simple.py --answer-format {asked})",
    )
    return Found(CERTAIN if paid else LIKELY if lenient <= RARE else POSSIBLE, cause)


def too_short(case: Case) -> Found | None:
    trend, now, before = case.trend, case.now("truncated"), case.start("truncated")
    if now < OFTEN or (case.state == COLLAPSING and before < OFTEN):
        return None
    limit = trend.get("gconfig.max_new_tokens", 0)
    evidence = f"{now:.0%} of the completions are cut off at {limit} tokens ({before:.0%} at the start)"
    cause = Cause("completions are cut off", evidence, f"gconfig.max_new_tokens={2 * limit}")
    return Found(LIKELY if before >= OFTEN else POSSIBLE, cause)


def rate_too_high(case: Case) -> Found | None:
    if case.state not in (FLAT, COLLAPSING) or not case.falling or not case.rate:
        return None
    times = case.rate / (case.recorded_rate or case.rate)
    of_band = [f"{times:.3g} times the {case.recorded_rate:g} the band was recorded with"] if times >= TIMES else []
    signs = of_band + _upheaval(case)
    evidence = "; ".join(signs[:3]) or "the usual cause of a collapse"
    strength = CERTAIN if of_band else LIKELY if signs else POSSIBLE
    instead = case.recorded_rate if of_band else case.rate / 10
    return Found(strength, Cause(f"learning rate too high ({case.rate:g})", evidence, f"actor.lr={instead:.2g}"))


def _upheaval(case: Case) -> list[str]:
    """Signs of updates too large: how the policy's own measures moved since the start."""
    signs = []
    if case.now("logprob_drift") > MOVED and case.now("staleness") > 0.5:
        signs.append(f"one version to the next changes a token's logprob by {case.now('logprob_drift'):.2g}")
    if case.now("kl") > FAR:
        signs.append(f"the policy is {case.now('kl'):.2g} nats a token away from the start model")
    for name, unit in (("entropy", " nats"), ("grad_norm", ""), ("completion_tokens", " tokens")):
        before, now = case.start(name), case.now(name)
        if before and now and not 1 / TIMES < now / before < TIMES:
            signs.append(f"{name} went from {before:.3g} to {now:.3g}{unit}")
    return signs


def rate_too_low(case: Case) -> Found | None:
    if case.state not in (FLAT, SLOW) or case.falling or not case.rate or case.now("groups_without_signal") > MOST:
        return None
    lower = (case.recorded_rate or case.rate) / case.rate
    signs = [f"the band was recorded with {lower:.3g} times as much"] if lower >= TIMES else []
    drift = case.trend.now("logprob_drift")
    if drift is not None and drift < STILL and case.now("staleness") > 0.5:
        signs.append(f"one version to the next changes a token's logprob by {drift:.1g} only")
    if not signs and case.state == SLOW:  # nothing speaks for it
        return None
    evidence = "; ".join(signs) or f"{1 - case.now('groups_without_signal'):.0%} of the groups have signal"
    strength = CERTAIN if lower >= TIMES else LIKELY if signs else POSSIBLE
    instead = case.recorded_rate if lower >= TIMES else case.rate * 3
    return Found(strength, Cause(f"learning rate too low ({case.rate:g})", evidence, f"actor.lr={instead:.2g}"))


def too_hard(case: Case) -> Found | None:
    none, share = case.now("groups_without_signal"), _share(case)
    if case.state == COLLAPSING or none < MOST or share > 1 - MOST or not case.trend.pays_for_answers():
        return None
    evidence = f"{none:.0%} of the groups have no signal at {share:.0%} of the highest reward: nearly all are all wrong"
    samples = case.trend.get("gconfig.n_samples", 0)
    more = f"gconfig.n_samples={2 * samples}, easier problems, a stronger model or SFT first"
    return Found(LIKELY, Cause("the problems are too hard for this model", evidence, more))


def too_easy(case: Case) -> Found | None:
    none, share = case.now("groups_without_signal"), _share(case)
    if none < MOST or share < MOST or not case.trend.pays_for_answers():
        return None
    evidence = f"{none:.0%} of the groups have no signal at {share:.0%} of the highest reward: nearly all are all right"
    harder = "train_dataset.path=... with harder problems, or actor.path=... with a weaker model"
    return Found(CERTAIN, Cause("the problems are too easy for this model", evidence, harder))


def _share(case: Case) -> float:
    return case.trend.share(case.trend.level().value) if case.trend.rewards else 0.0


def sampling_too_hot(case: Case) -> Found | None:
    temperature, sampled = case.trend.get("gconfig.temperature", 1.0), case.now("accuracy")
    greedy = case.trend.dev[-1]["dev/accuracy"] if case.trend.dev else 0.0
    if temperature <= 1.0 or sampled > greedy / 2 or greedy < RARE:
        return None
    evidence = f"sampled at temperature {temperature:g} {sampled:.0%} are right, greedily {greedy:.0%} of the dev rows"
    return Found(LIKELY, Cause("sampling temperature too high", evidence, "gconfig.temperature=1.0"))


def sampling_too_alike(case: Case) -> Found | None:
    temperature, none = case.trend.get("gconfig.temperature", 1.0), case.now("groups_without_signal")
    share, entropy, before = _share(case), case.now("entropy"), case.start("entropy")
    cold, gone = temperature < 0.7, bool(before) and entropy < before / 10
    if none < 0.5 or not 0.1 < share < 0.9 or not (cold or gone):
        return None
    evidence = f"{none:.0%} of the groups have no signal at {share:.0%} of the highest reward"
    evidence += f"; entropy went from {before:.2g} to {entropy:.2g} nats" if gone else f"; temperature {temperature:g}"
    instead = f"gconfig.temperature={1.0 if cold else 1.2}"
    return Found(LIKELY, Cause("the completions of a group are all alike", evidence, instead))


def stale_rollouts(case: Case) -> Found | None:
    staleness, drift = case.now("staleness"), case.now("logprob_drift")
    if staleness < 1.5 or drift < MOVED:
        return None
    evidence = f"samples are {staleness:.1f} versions old and their logprobs off by {drift:.2g} nats a token"
    return Found(LIKELY, Cause("stale rollouts", evidence, "rollout.max_head_offpolicyness=1"))


def engines_disagree(case: Case) -> Found | None:
    exact = case.trend.get("actor.dtype") == "float32"
    gap, largest = case.now("logprob_gap"), 0.01 if exact else 0.5  # of a single token, same version
    if gap <= largest:
        return None
    evidence = f"logprob_gap {gap:.2g} nats on tokens of the current version; up to {largest:g} is usual"
    cause = Cause("rollout server and trainer disagree", evidence, "actor.dtype=float32 and actor.attn_impl=sdpa")
    return Found(LIKELY, cause)


def rewards_fail(case: Case) -> Found | None:
    errors = sum(case.trend.values("reward_errors"))
    share = errors / max(1, len(case.trend.rows) * case.trend.samples_a_step())
    if share < RARE:
        return None
    evidence = f"{errors:.0f} rewards could not be computed, {share:.0%} of as many as were used"
    seconds = case.trend.get("reward.custom_seconds", 10.0)
    cause = Cause("rewards fail", evidence, f"samples/rejected.jsonl says why; reward.custom_seconds={2 * seconds:g}")
    return Found(CERTAIN if share > OFTEN else LIKELY, cause)


def wrong_thing_paid(case: Case) -> Found | None:
    trend = case.trend
    if case.state != COLLAPSING or not trend.dev or not trend.rewards:
        return None
    best = max(row["dev/accuracy"] for row in trend.dev)
    last, reward, start = trend.dev[-1]["dev/accuracy"], trend.level().value, trend.first().value
    if last > best / 2 or reward < start:
        return None
    evidence = f"dev accuracy fell from {best:.0%} to {last:.0%}, the reward went from {start:.2f} to {reward:.2f}"
    what = "the reward pays for something else than right answers"
    return Found(CERTAIN, Cause(what, evidence, "reward.accuracy=1.0"))


RULES: tuple[Callable[[Case], Found | None], ...] = (
    format_not_followed,
    rewards_fail,
    wrong_thing_paid,
    too_easy,
    rate_too_high,
    engines_disagree,
    stale_rollouts,
    too_short,
    too_hard,
    sampling_too_hot,
    sampling_too_alike,
    rate_too_low,
)
