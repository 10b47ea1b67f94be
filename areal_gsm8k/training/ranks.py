"""Messages between the trainer's ranks: small Python objects, beside the tensors that AReaL exchanges."""

from typing import TypeVar

import torch.distributed as dist

T = TypeVar("T")


class Ranks:
    """The trainer's processes. Every method but `first` is called by all of them."""

    def __init__(self, rank: int, group: dist.ProcessGroup | None):
        """`group`: the actor's CPU group; None for AReaL's single controller, which is one process."""
        self.rank, self._group = rank, group

    @property
    def first(self) -> bool:
        """Whether this is the rank that writes files."""
        return self.rank == 0

    def from_first(self, value: T) -> T:
        """Rank 0's value, on every rank."""
        box = [value]
        if self._group is not None:
            dist.broadcast_object_list(box, src=0, group=self._group)
        return box[0]

    def gather(self, rows: list[T]) -> list[T]:
        """All ranks' rows, on every rank, in rank order."""
        if self._group is None:
            return rows
        gathered: list[list[T]] = [[]] * dist.get_world_size(self._group)
        dist.all_gather_object(gathered, rows, group=self._group)
        return [row for part in gathered for row in part]

    def wait(self) -> None:
        """Return once every rank is here."""
        if self._group is not None:
            dist.barrier(group=self._group)
