"""A cache of prefilled prompts: samples of one prompt that do not arrive together share one prefill."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

import torch

BYTES = 256 << 20  # limit of the cache; the least recently used prompt goes first


@dataclass(eq=False)
class Prompt:
    """A prefilled prompt: logits after its last token (vocab), packed keys and values (see Slab.pack), length."""

    logits: torch.Tensor
    packed: list[torch.Tensor]
    length: int

    @property
    def nbytes(self) -> int:
        return sum(t.nbytes for t in self.packed) + self.logits.nbytes


class RecentPrompts:
    """Prompts by their ids. A change of weights clears them: keys and values of old weights are never reused."""

    def __init__(self, limit: int = BYTES):
        self.limit = limit
        self.held = 0
        self.prompts: OrderedDict[tuple[int, ...], Prompt] = OrderedDict()

    def get(self, ids: tuple[int, ...]) -> Prompt | None:
        if (prompt := self.prompts.get(ids)) is not None:
            self.prompts.move_to_end(ids)
        return prompt

    def put(self, ids: tuple[int, ...], prompt: Prompt) -> None:
        self.prompts[ids] = prompt
        self.held += prompt.nbytes
        while self.held > self.limit:
            self.held -= self.prompts.popitem(last=False)[1].nbytes

    def clear(self) -> None:
        self.prompts.clear()
        self.held = 0
