"""AReaL's training dataloader with numbered prompts: by their place in the run's data order, without those done.

The order is a function of the configuration alone: epoch after epoch of AReaL's DistributedSampler. So the number (the
`position`) names a prompt for good, and a resumed run goes on, in order, with the prompts that its ledger lacks.
"""

from collections.abc import Iterator
from typing import Any

from torchdata.stateful_dataloader import StatefulDataLoader

from areal_gsm8k.runs.recovery import Ledger


class PromptStream:
    """The dataloader as AReaL's loop, engines and recovery use it; every pass over it is the next epoch."""

    def __init__(self, loader: StatefulDataLoader, rank: int, ranks: int, done: Ledger):
        self.loader, self.sampler, self.batch_size = loader, loader.sampler, loader.batch_size
        self.dataset = loader.dataset
        self.done = done
        self._position, self._stride = rank, ranks  # data-parallel ranks take turns

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[list[dict]]:
        for batch in self.loader:
            prompts = []
            for row in batch:
                if self._position not in self.done:
                    prompts.append(row | {"position": self._position})
                self._position += self._stride
            yield prompts

    def state_dict(self) -> dict[str, Any]:
        return self.loader.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.loader.load_state_dict(state_dict)
