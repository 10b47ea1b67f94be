import pytest

pytest.importorskip("areal", reason="areal is not installed")

import torch  # noqa: E402

from areal_gsm8k.loop.rollouts import NoSignal, RunsAhead  # noqa: E402


def group(first_id: int) -> dict:
    return {"sample_id": torch.tensor([first_id, first_id + 1])}


class Dispatcher:
    def __init__(self):
        self._active_task_ids = set()

    def submit_task_input(self, task):
        self._active_task_ids.add(task)


class Executor:
    def __init__(self, max_staleness):
        self.max_staleness, self.dispatcher = max_staleness, Dispatcher()
        self.data_generator = iter(range(1000))


class Base:
    """Stands for AReaL's remote engine."""

    def __init__(self, batches, max_staleness=0):
        self.batches, self.workflow_executor = iter(batches), Executor(max_staleness)

    def prepare_batch(self, dataloader, workflow=None):
        return next(self.batches)


class Engine(RunsAhead, Base):
    pass


class Loader:
    batch_size = 4


def test_empty_batches_are_collected_again_up_to_the_bound():
    only = group(0)
    engine = Engine([[], [], [only], [], [], []])
    engine.max_empty_batches = 2
    assert engine.prepare_batch(Loader()) == [only]
    with pytest.raises(NoSignal, match="3 batches in a row.*drop_groups_without_signal=false"):
        engine.prepare_batch(Loader())


@pytest.mark.parametrize(("max_staleness", "under_way"), [(0, 0), (1, 4), (2, 8)])
def test_prompts_are_submitted_up_to_the_staleness_bound(max_staleness, under_way):
    engine = Engine([[group(0)], [group(8)]], max_staleness)
    engine.prepare_batch(Loader())
    assert len(engine.workflow_executor.dispatcher._active_task_ids) == under_way
    engine.prepare_batch(Loader())  # none of them was consumed: nothing more to submit
    assert len(engine.workflow_executor.dispatcher._active_task_ids) == under_way


def test_a_batch_comes_in_data_order():
    (batch,) = [Engine([[group(16), group(0), group(8)]]).prepare_batch(Loader())]
    assert [made["sample_id"][0].item() for made in batch] == [0, 8, 16]
