"""The reward of a completion: pure parts, added up by the run's weights. docs/reward.md explains the choice.

    reward: {accuracy: 1.0, format: 0.2, overlong: 0.5, overlong_buffer: 128}     in the YAML

`Reward.from_settings(...)` is made once; `parts(sample)` gives every part in use before its weight, `total(parts)` the
scalar that is trained on, so that both can be logged. A failure is never counted as a wrong answer: a reference
that cannot be read, or a user's function that fails, is a RewardError.
"""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any

from areal_gsm8k.grading.custom_reward import RewardError, RewardProcesses
from areal_gsm8k.grading.parser import Verdict
from areal_gsm8k.settings import RewardSettings

_THOUGHT = re.compile(r"\s*<think>(.+?)</think>(.+)", re.S)


@dataclass(frozen=True)
class Sample:
    """The input of the parts. `data` is the row (question, answer, ...); ids are token ids."""

    completion: str
    verdict: Verdict
    tokens: int  # of the completion, with its end-of-sequence token
    truncated: bool = False  # cut off at the limit of new tokens
    prompt: str = ""
    prompt_ids: tuple[int, ...] = ()
    completion_ids: tuple[int, ...] = ()
    data: dict[str, Any] | None = None


def accuracy(verdict: Verdict) -> float:
    """1 when the final answer is right by the grading convention (docs/reward.md), else 0.

    The rule-based accuracy reward of DeepSeek-R1 (arXiv 2501.12948, section 2.2.2).
    """
    return float(verdict.lenient)


def format_followed(verdict: Verdict) -> float:
    """1 when a well-formed marker of the run's answer format is present, its content right or wrong, else 0.

    The format reward of DeepSeek-R1 (arXiv 2501.12948, section 2.2.2), for the format of `answer_format`.
    """
    return float(verdict.formatted)


def ternary(verdict: Verdict, truncated: bool) -> float:
    """1 right, 0 wrong, -1 when no single value can be read from the answer, or the completion was cut off.

    The scale of TapeAgents (examples/rl_gsm8k/orchestrate_rl.py): a policy that stops answering, or never stops, must
    lose against one that tries. A cut-off completion gets -1 whatever it says.
    """
    if truncated or verdict.value is None:
        return -1.0
    return float(verdict.lenient)


def length(tokens: int, target: int) -> float:
    """0 at `target` tokens, falling in proportion to the distance from it, to -1 at 0 and from twice the target on.

    The |n_target - n| term of L1-Exact (arXiv 2503.04697, equation 1), as a share of the target and bounded.
    """
    return -min(1.0, abs(tokens - target) / target)


def overlong(tokens: int, limit: int, buffer: int) -> float:
    """DAPO's soft overlong punishment (arXiv 2503.14476, equation 13): 0 up to limit - buffer tokens, then linearly
    down to -1 at the limit."""
    return 0.0 if tokens <= limit - buffer else max(-1.0, (limit - buffer - tokens) / buffer)


def think_tags(completion: str) -> float:
    """1 when the completion is one thought in <think> tags and then an answer, both not empty, else 0.

    The tag format of DeepSeek-R1 (arXiv 2501.12948, table 1), as TRL's think_format_reward checks it.
    """
    found = _THOUGHT.fullmatch(completion)
    once = completion.count("<think>") == completion.count("</think>") == 1
    return float(bool(once and found and found[1].strip() and found[2].strip()))


@dataclass(frozen=True)
class Part:
    """One part of the reward; the key of its name in RewardSettings is its weight, `custom` names a function."""

    paid: Callable[[Any, Sample], float]  # before its weight
    ends: tuple[int, int] | None  # the lowest and the highest value; None: not known
    keys: tuple[str, ...] = ()  # of RewardSettings, beside its own, that decide what it pays


PARTS: dict[str, Part] = {  # the one table of them: ranges, options, charts and messages are made from it
    "accuracy": Part(lambda reward, sample: accuracy(sample.verdict), (0, 1)),
    "format": Part(lambda reward, sample: format_followed(sample.verdict), (0, 1)),
    "ternary": Part(lambda reward, sample: ternary(sample.verdict, sample.truncated), (-1, 1)),
    "length": Part(
        lambda reward, sample: length(sample.tokens, reward.settings.length_target), (-1, 0), ("length_target",)
    ),
    "overlong": Part(
        lambda reward, sample: overlong(sample.tokens, reward.max_new_tokens, reward.settings.overlong_buffer),
        (-1, 0),
        ("overlong_buffer",),
    ),
    "think": Part(lambda reward, sample: think_tags(sample.completion), (0, 1)),
    "custom": Part(lambda reward, sample: reward.own(sample), None, ("custom_weight",)),
}
WEIGHTED = tuple(name for name, part in PARTS.items() if part.ends)  # all but the user's own function


@dataclass(frozen=True)
class Reward:
    """The parts by their weights; one of weight 0 is not computed. Safe in threads."""

    settings: RewardSettings = field(default_factory=RewardSettings)
    max_new_tokens: int = 512  # the limit that `overlong` counts from
    processes: RewardProcesses | None = None  # runs the user's own function

    @classmethod
    def from_settings(cls, settings: Any, max_new_tokens: int) -> "Reward":
        """From an object with the attributes of `reward:` in the YAML; one that it lacks keeps its default.

        Raises ValueError naming the key for a weight or bound that cannot be meant, RewardError when the module or
        function of `reward.custom` cannot be loaded.
        """
        names = [declared.name for declared in fields(RewardSettings) if hasattr(settings, declared.name)]
        own = RewardSettings(**{name: getattr(settings, name) for name in names})
        if own.length and own.length_target <= 0:
            raise ValueError(f"reward.length_target is {own.length_target}; it must be a positive number of tokens")
        if own.overlong and not 0 < own.overlong_buffer <= max_new_tokens:
            raise ValueError(
                f"reward.overlong_buffer is {own.overlong_buffer}; it must lie between 1 and "
                f"gconfig.max_new_tokens, {max_new_tokens}"
            )
        started = RewardProcesses(own.custom, own.custom_seconds, own.custom_processes) if own.custom else None
        return cls(own, max_new_tokens, started)

    def parts(self, sample: Sample) -> dict[str, float]:
        """Every part in use, before its weight. Raises RewardError when one cannot be computed; it may wait for the
        user's function, so an event loop calls it in a thread."""
        if sample.verdict.error:
            raise RewardError(f"not gradable: {sample.verdict.error}")
        return {name: PARTS[name].paid(self, sample) for name in self.weights()}

    def own(self, sample: Sample) -> float:
        """What the user's own function returns. Raises RewardError."""
        if self.processes is None:
            raise RewardError("reward.custom names a function, but its processes were not started: use from_settings")
        return self.processes.score(
            sample.prompt, sample.completion, sample.prompt_ids, sample.completion_ids, sample.data or {}
        )

    def weights(self) -> dict[str, float]:
        """The weight of every part in use."""
        weights = {name: weight for name in WEIGHTED if (weight := getattr(self.settings, name))}
        return weights | ({"custom": self.settings.custom_weight} if self.processes else {})

    def total(self, parts: dict[str, float]) -> float:
        """The scalar reward: the parts times their weights, summed."""
        weights = self.weights()
        return math.fsum(weights[name] * part for name, part in parts.items())

    def close(self) -> None:
        """End the processes of the user's function."""
        if self.processes:
            self.processes.close()
