"""The work of a step: its prompts, their completions and lengths, and AReaL's bounds."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from areal_gsm8k.plan.speed.rates import ScalingError

Lengths = Sequence[Sequence[int]]  # tokens of each completion of each group


@dataclass(frozen=True)
class Workload:
    batch: int  # prompts a step: train_dataset.batch_size
    concurrent: int  # groups under way at most: rollout.max_concurrent_rollouts
    bound: int  # rollout.max_head_offpolicyness
    lengths: Lengths  # used in turn, from the first again after the last

    def group(self, number: int) -> Sequence[int]:
        return self.lengths[number % len(self.lengths)]

    @classmethod
    def of(cls, values: Mapping, lengths: Lengths) -> Workload:
        """From a resolved configuration (config/compose.py)."""
        batch, rollout = values["train_dataset"]["batch_size"], values["rollout"]
        # AReaL's default without the key: areal/infra/workflow_executor.py
        concurrent = rollout.get("max_concurrent_rollouts") or rollout["consumer_batch_size"]
        return cls(batch, concurrent, rollout["max_head_offpolicyness"], lengths)


def drawn(mean: float, spread: float, longest: int, group: int, groups: int, seed: int = 1) -> list[list[int]]:
    """Lengths of `groups` groups of `group` completions, gamma-distributed, between 1 and `longest` tokens."""
    if not 1 <= mean <= longest:
        raise ScalingError(
            f"--completion-tokens {mean:g}: between 1 and gconfig.max_new_tokens={longest}, what a completion may have."
        )
    if spread < 0:
        raise ScalingError(f"--completion-spread {spread:g}: a standard deviation in tokens, 0 or more.")
    if not spread:
        return [[round(mean)] * group]
    source, shape, scale = random.Random(seed), (mean / spread) ** 2, spread**2 / mean
    return [
        [min(longest, max(1, round(source.gammavariate(shape, scale)))) for _ in range(group)] for _ in range(groups)
    ]
