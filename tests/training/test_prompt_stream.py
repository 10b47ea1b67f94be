import pytest

pytest.importorskip("torchdata", reason="torchdata comes with areal")

from torch.utils.data import DistributedSampler
from torchdata.stateful_dataloader import StatefulDataLoader

from areal_gsm8k.runs.recovery import Ledger
from areal_gsm8k.training.prompt_stream import PromptStream

ROWS = [{"id": row} for row in range(8)]


def two_epochs(done: Ledger, rank: int = 0, ranks: int = 1) -> list[tuple[int, int]]:
    """(position, row) in the order in which AReaL's cycle_dataloader draws them."""
    sampler = DistributedSampler(ROWS, ranks, rank, shuffle=True)
    loader = StatefulDataLoader(ROWS, batch_size=2, sampler=sampler, collate_fn=list)
    stream, drawn = PromptStream(loader, rank, ranks, done), []
    for epoch in range(2):
        stream.sampler.set_epoch(epoch)
        drawn += [(prompt["position"], prompt["id"]) for batch in stream for prompt in batch]
    return drawn


def test_positions_count_over_epochs_and_the_order_is_the_samplers():
    drawn = two_epochs(Ledger())
    assert [position for position, _ in drawn] == list(range(16))
    first, second = [row for _, row in drawn[:8]], [row for _, row in drawn[8:]]
    assert sorted(first) == sorted(second) == list(range(8)) and first != second
    assert drawn == two_epochs(Ledger())


def test_done_prompts_are_left_out_and_the_rest_keep_their_positions():
    everything = two_epochs(Ledger())
    assert two_epochs(Ledger(3, [5, 11])) == [pair for pair in everything if pair[0] >= 3 and pair[0] not in (5, 11)]


def test_ranks_share_out_the_positions():
    parts = [two_epochs(Ledger(), rank, ranks=2) for rank in (0, 1)]
    assert sorted(position for part in parts for position, _ in part) == list(range(16))
    assert {row for _, row in parts[0][:4]}.isdisjoint({row for _, row in parts[1][:4]})
