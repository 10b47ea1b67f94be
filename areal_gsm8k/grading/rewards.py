"""What a completion is paid: pure parts, added up by the run's weights. docs/reward.md explains the choice.

    reward: {accuracy: 1.0, format: 0.2, overlong: 0.5, overlong_buffer: 128}     in the YAML

`Reward.from_settings(...)` is made once; `parts(sample)` gives every part in use before its weight, `total(parts)` the
scalar that is trained on, so that both can be logged. Nothing here raises a completion's fault as a wrong answer: a
reference that cannot be read, or the user's own function failing, is a RewardError.
"""

import math
import re
from dataclasses import dataclass, fields, replace
from typing import Any

from areal_gsm8k.grading.custom_reward import RewardError, RewardProcesses
from areal_gsm8k.grading.parser import Verdict

_THOUGHT = re.compile(r"\s*<think>(.+?)</think>(.+)", re.S)


@dataclass(frozen=True)
class Sample:
    """What the parts may look at. `data` is the row (question, answer, ...); ids are token ids."""

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
    """1 when a well-formed marker of the asked-for format is present, its content right or wrong, else 0.

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
class Reward:
    """Weights of the parts; a part of weight 0 is not computed. Safe in threads."""

    accuracy: float = 1.0
    format: float = 0.0
    ternary: float = 0.0
    length: float = 0.0
    overlong: float = 0.0
    think: float = 0.0
    custom_weight: float = 1.0
    length_target: int = 256  # tokens
    overlong_buffer: int = 128  # tokens
    max_new_tokens: int = 512  # the limit that `overlong` counts from
    processes: RewardProcesses | None = None  # runs the user's own function

    @classmethod
    def from_settings(cls, settings: Any, max_new_tokens: int) -> "Reward":
        """From an object with the attributes of `reward:` in the YAML; one that it lacks keeps its default.

        Raises ValueError naming the key for a weight or bound that cannot be meant, RewardError when the module or
        function of `reward.custom` cannot be loaded.
        """
        given = {field.name: getattr(settings, field.name) for field in fields(cls) if hasattr(settings, field.name)}
        reward = cls(**given, max_new_tokens=max_new_tokens)
        if reward.length and reward.length_target <= 0:
            raise ValueError(f"reward.length_target is {reward.length_target}; it must be a positive number of tokens")
        if reward.overlong and not 0 < reward.overlong_buffer <= max_new_tokens:
            raise ValueError(
                f"reward.overlong_buffer is {reward.overlong_buffer}; it must lie between 1 and "
                f"gconfig.max_new_tokens, {max_new_tokens}"
            )
        path = getattr(settings, "custom", None)
        if not path:
            return reward
        processes = RewardProcesses(path, settings.custom_seconds, settings.custom_processes)
        return replace(reward, processes=processes)

    def parts(self, sample: Sample) -> dict[str, float]:
        """Every part in use, before its weight. Raises RewardError when one cannot be computed; it may wait for the
        user's function, so an event loop calls it in a thread."""
        verdict = sample.verdict
        if verdict.error:
            raise RewardError(f"not gradable: {verdict.error}")
        parts = {}
        if self.accuracy:
            parts["accuracy"] = accuracy(verdict)
        if self.format:
            parts["format"] = format_followed(verdict)
        if self.ternary:
            parts["ternary"] = ternary(verdict, sample.truncated)
        if self.length:
            parts["length"] = length(sample.tokens, self.length_target)
        if self.overlong:
            parts["overlong"] = overlong(sample.tokens, self.max_new_tokens, self.overlong_buffer)
        if self.think:
            parts["think"] = think_tags(sample.completion)
        if self.processes:
            parts["custom"] = self.processes.score(
                sample.prompt, sample.completion, sample.prompt_ids, sample.completion_ids, sample.data or {}
            )
        return parts

    def weights(self) -> dict[str, float]:
        """The weight of every part in use, by the names of `parts`."""
        names = ("accuracy", "format", "ternary", "length", "overlong", "think")
        weights = {name: getattr(self, name) for name in names if getattr(self, name)}
        return weights | ({"custom": self.custom_weight} if self.processes else {})

    def total(self, parts: dict[str, float]) -> float:
        """The scalar reward: the parts times their weights, summed."""
        weights = self.weights()
        return math.fsum(weights[name] * part for name, part in parts.items())

    def close(self) -> None:
        """End the processes of the user's function."""
        if self.processes:
            self.processes.close()
