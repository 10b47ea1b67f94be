"""The reference policy in the place of AReaL's, asked for logprobs only when a KL is to be logged.

With `kl_reference=true` the KL to the start model is measured and nothing else; a forward pass of the reference costs
a fifth of a step. Between measurements AReaL's loop gets no logprobs, and the step's rows hold no KL.
"""

from collections.abc import Callable
from typing import Any

import torch


class OccasionalReference:
    """AReaL's engine `ref`, whose `compute_logp` answers in the first step and then every `every` steps."""

    def __init__(self, ref: Any, every: int, steps_done: Callable[[], int]):
        self.ref, self.every, self.steps_done = ref, every, steps_done

    def compute_logp(self, batch: list[dict[str, Any]]) -> list[torch.Tensor]:
        """The logprobs of every group, or an empty list: AReaL's loop takes as many as there are."""
        return [] if self.steps_done() % self.every else self.ref.compute_logp(batch)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.ref, name)
