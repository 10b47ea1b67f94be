"""A run's samples under another reward, without training: which advantages would the update have seen?

regrader = Regrader(run, config, ["format=0.5"])
regraded = regrader.step(3)
summarise(regraded).sign_changes

gsm8k replay runs/tiny-grpo/demo --reward format=0.5
"""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from functools import cached_property

from omegaconf import OmegaConf

from areal_gsm8k.config.compose import read_overrides
from areal_gsm8k.data import prompts
from areal_gsm8k.grading.advantages import advantages
from areal_gsm8k.grading.parser import Verdict, grade
from areal_gsm8k.grading.rewards import PARTS, Reward, Sample
from areal_gsm8k.replay import kept_models
from areal_gsm8k.runs import samples
from areal_gsm8k.runs.run import Run
from areal_gsm8k.settings import RewardSettings
from areal_gsm8k.statistics import gained_lost

ZERO = 1e-6  # advantages nearer to 0 are those of equal rewards, rounded
VERDICTS = ("lenient", "strict", "formatted")


class RegradeError(ValueError):
    """Samples that cannot be regraded as asked; the message names the key."""


@dataclass
class Regraded:
    """One sample under another reward. Both advantages are computed from the rewards, the recorded and the new one."""

    step: int
    row: dict  # as in samples.read
    reward: float | None  # None: it could not be computed
    parts: dict[str, float]
    error: str | None
    judged_otherwise: bool  # today's grader gives another verdict than the run's did
    advantage_before: float = 0.0
    advantage: float | None = None  # None: a reward of its group is missing, and training would reject the group

    @property
    def change(self) -> float:
        return 0.0 if self.advantage is None else self.advantage - self.advantage_before


@dataclass(frozen=True)
class RewardChange:
    """The changes by another reward in the samples of one step, or of many. Means are over samples with a reward."""

    samples: int
    reward_before: float | None
    reward: float | None
    sign_changes: int  # samples whose advantage got another sign: positive, negative or zero
    groups: int
    gained: int  # groups whose rewards were all equal and now differ
    lost: int  # groups whose rewards differed and are now all equal
    errors: int  # samples without a reward; their groups count in nothing but `groups` and the means
    otherwise: int  # samples that the grader of today judges otherwise
    disagreement: float  # largest difference of a recorded advantage and the one computed from the recorded reward


class Regrader:
    """The run's reward with some keys laid over it. `close` ends the processes of a user's own function."""

    def __init__(self, run: Run, config: dict, overrides: list[str]):
        """`overrides`: key=value of RewardSettings. Raises ConfigError, RegradeError, ValueError or RewardError."""
        self.run, self.config = run, config
        known = {declared.name for declared in fields(RewardSettings)}
        recorded = {key: value for key, value in config["reward"].items() if key in known}
        self.recorded = RewardSettings(**recorded)
        given = read_overrides([f"reward.{item}" for override in overrides for item in override.split(",")])
        if "shuffled" in given.reward:
            raise RegradeError("reward.shuffled: regrading takes every reward as it is; leave it out")
        self.settings = RewardSettings(**recorded | OmegaConf.to_container(given.reward) | {"shuffled": False})
        self.reward = Reward.from_settings(self.settings, config["gconfig"]["max_new_tokens"])
        if not self.reward.weights():
            raise RegradeError("--reward: no part has a weight other than 0, so nothing would be paid")

    def step(self, step: int) -> list[Regraded]:
        """The samples of one step, in the order of the batch. Raises SamplesError."""
        rows = samples.read(self.run, step)
        graded = [self._graded(row) for row in rows]
        threads = ThreadPoolExecutor(self.settings.custom_processes if self.reward.processes else 1)
        try:
            paid = list(threads.map(self._paid, graded))
        finally:
            threads.shutdown(cancel_futures=True)  # Ctrl-C waits for the calls under way only
        regraded = [
            Regraded(step, row, *rest, _judged_otherwise(row, sample.verdict))
            for row, sample, rest in zip(rows, graded, paid, strict=True)
        ]
        actor, tokens = self.config["actor"], [row["completion_tokens"] for row in rows]
        before = advantages([row["reward"] for row in rows], tokens, actor)
        for one, advantage in zip(regraded, before.tolist(), strict=True):
            one.advantage_before = advantage
        rejected = {one.row["group"] for one in regraded if one.reward is None}
        left = [one for one in regraded if one.row["group"] not in rejected]
        after = advantages([one.reward for one in left], [one.row["completion_tokens"] for one in left], actor)
        for one, advantage in zip(left, after.tolist(), strict=True):
            one.advantage = advantage
        return regraded

    def close(self) -> None:
        self.reward.close()

    def _graded(self, row: dict) -> Sample:
        verdict = grade(row["completion"], row["reference"], self.config["answer_format"])
        return Sample(row["completion"], verdict, row["completion_tokens"], row["truncated"], **self._asked(row))

    def _paid(self, sample: Sample) -> tuple[float | None, dict[str, float], str | None]:
        """Reward, parts and error."""
        try:
            parts = self.reward.parts(sample)
            return self.reward.total(parts), parts, None
        except Exception as failure:  # as in training: whatever a reward raises is an error, never a wrong answer
            return None, {}, f"{type(failure).__name__}: {failure}"

    def _asked(self, row: dict) -> dict:
        """The fields that only a user's own function looks at: the row, the prompt and the tokens, as in training."""
        if not self.reward.processes:
            return {}
        asked = self.config["answer_format"], self.config.get("system_prompt")
        prompt_ids = prompts.prompt_ids(self._tokenizer, row["question"], *asked)
        ids = samples.token_ids(row, self._tokenizer)
        if ids is None:
            ids = prompts.sampled_ids(self._tokenizer, row["completion"], ended=not row["truncated"])
        data = {"id": row["row"], "question": row["question"], "answer": row["reference"], "position": row["position"]}
        return {
            "prompt": self._tokenizer.decode(prompt_ids),
            "prompt_ids": tuple(prompt_ids),
            "completion_ids": tuple(ids),
            "data": data,
        }

    @cached_property
    def _tokenizer(self):
        return kept_models.tokenizer(self.run, self.config)


def summarise(regraded: list[Regraded]) -> RewardChange:
    """The change over the samples of one step."""
    paid = [one for one in regraded if one.reward is not None]
    groups: dict[str, list[Regraded]] = {}
    for one in regraded:
        groups.setdefault(one.row["group"], []).append(one)
    whole = [group for group in groups.values() if all(one.reward is not None for one in group)]
    signal = [_differ(one.row["reward"] for one in group) for group in whole]
    gained, lost = gained_lost(signal, [_differ(one.reward for one in group) for group in whole])
    return RewardChange(
        samples=len(regraded),
        reward_before=_mean([one.row["reward"] for one in paid]),
        reward=_mean([one.reward for one in paid]),
        sign_changes=sum(_sign(one.advantage_before) != _sign(one.advantage) for group in whole for one in group),
        groups=len(groups),
        gained=gained,
        lost=lost,
        errors=len(regraded) - len(paid),
        otherwise=sum(one.judged_otherwise for one in regraded),
        disagreement=max((abs(one.row["advantage"] - one.advantage_before) for one in regraded), default=0.0),
    )


def total(changes: list[RewardChange]) -> RewardChange:
    """The change over all steps from those of each."""
    counted = ("samples", "sign_changes", "groups", "gained", "lost", "errors", "otherwise")
    sums = {name: sum(getattr(change, name) for change in changes) for name in counted}
    paid = sums["samples"] - sums["errors"]

    def mean(name: str) -> float | None:
        weighted = ((getattr(change, name) or 0.0) * (change.samples - change.errors) for change in changes)
        return sum(weighted) / paid if paid else None

    disagreement = max((change.disagreement for change in changes), default=0.0)
    return RewardChange(reward_before=mean("reward_before"), reward=mean("reward"), disagreement=disagreement, **sums)


def described(settings: RewardSettings) -> str:
    """A reward in one line: the parts in use with their weights, and their bounds."""
    names = [key for name, part in PARTS.items() if getattr(settings, name) for key in (name, *part.keys)]
    return ", ".join(f"{name}={getattr(settings, name)}" for name in names)


def _judged_otherwise(row: dict, verdict: Verdict) -> bool:
    return any(name in row and row[name] != getattr(verdict, name) for name in VERDICTS)


def _differ(rewards: Iterable[float]) -> bool:
    return len(set(rewards)) > 1


def _mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _sign(advantage: float) -> int:
    return (advantage > ZERO) - (advantage < -ZERO)
