import asyncio
import logging
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import pytest

pytest.importorskip("areal", reason="areal is not installed")

import torch
from areal.api import ModelRequest
from areal.api.cli_args import GenerationHyperparameters, InferenceEngineConfig
from areal.infra import RolloutController, remote_inf_engine, workflow_context
from areal.infra.remote_inf_engine import RemoteInfEngine
from areal.infra.staleness_manager import StalenessManager
from areal.infra.workflow_executor import BatchTaskDispatcher

from areal_gsm8k.runs.records import given_up
from areal_gsm8k.training import controller
from areal_gsm8k.training.controller import RolloutsController
from areal_gsm8k.training.rollouts import NoSignal, Rollouts, ServerEnded, SGLangRollouts, count_rejected


def group(first_id: int) -> dict:
    return {"sample_id": torch.tensor([first_id, first_id + 1])}


class Dispatcher:
    def __init__(self):
        self._active_task_ids = set()

    def submit_task_input(self, task):
        self._active_task_ids.add(task)

    def resume(self):
        pass


class Executor:
    def __init__(self):
        self.dispatcher = Dispatcher()
        self.data_generator = iter(range(1000))
        self.staleness_manager = StalenessManager(SimpleNamespace(get_version=lambda: 0), 32, 4, 0)


@pytest.fixture
def client(monkeypatch):
    """A client whose server gives these batches."""

    def make(batches, max_staleness=0) -> Rollouts:
        bare = object.__new__(Rollouts)
        bare.workflow_executor, remaining = Executor(), iter(batches)
        bare.config = InferenceEngineConfig(backend="sglang:d1", max_head_offpolicyness=max_staleness)
        monkeypatch.setattr(RemoteInfEngine, "prepare_batch", lambda self, dataloader: next(remaining))
        return bare

    return make


@pytest.mark.parametrize("ahead", [0, 2])
def test_rejected_groups_leave_the_staleness_bound_as_it_is(ahead):
    """Batches of four groups that end with three rejected ones: as many may be under way before each of ten steps."""
    version = 0
    manager = StalenessManager(SimpleNamespace(get_version=lambda: version), 100, 4, ahead)
    count_rejected(manager)
    for step in range(10):
        version = step
        new = manager.get_capacity()
        assert new == (4 * (ahead + 1) if step == 0 else 4)
        for _ in range(new):
            manager.on_rollout_enqueued()
            manager.on_rollout_submitted()
        for end in (manager.on_rollout_rejected,) * 3 + (manager.on_rollout_accepted,):
            end()
        assert manager.get_capacity() == 0  # none beside the update but those of the bound


@pytest.mark.parametrize("ahead", [0, 1])
def test_a_batch_after_empty_ones_comes(client, monkeypatch, ahead):
    """By AReaL's own dispatcher and its threads: three batches of groups without signal, then one with two good ones.

    Every batch, empty or not, leaves as many places as it took; the ones of an empty batch at once.
    """
    manager = StalenessManager(SimpleNamespace(get_version=lambda: 0), 32, 4, ahead)
    count_rejected(manager)
    begun: list[int] = []

    def task(given):
        async def finish():
            begun.append(given.task_id)
            if given.task_id < 4:  # longer than AReaL's poll: meanwhile it queues the next prompts
                await asyncio.sleep(1.3)
            good = given.task_id in (12, 14)
            (manager.on_rollout_accepted if good else manager.on_rollout_rejected)()
            return group(given.task_id) if good else None

        return finish

    dispatcher = BatchTaskDispatcher(64, task, manager)
    inputs = (SimpleNamespace(task_id=number) for number in range(1000))
    dispatcher.initialize(logging.getLogger("test"))
    made = client([], ahead)
    made.max_empty_batches = 3
    made.workflow_executor = SimpleNamespace(
        dispatcher=dispatcher, staleness_manager=manager, data_generator=inputs
    )  # fmt: skip
    batches: list[list] = []

    def prepare_batch(self, dataloader):
        batches.append(dispatcher.active_submit_and_wait(inputs, 4, dynamic_bs=True))
        return batches[-1]

    monkeypatch.setattr(RemoteInfEngine, "prepare_batch", prepare_batch)
    waiting = threading.Thread(target=made.prepare_batch, args=[SimpleNamespace(batch_size=4)], daemon=True)
    waiting.start()
    try:
        waiting.join(20)
        assert not waiting.is_alive() and {one["sample_id"][0].item() for one in batches[-1]} == {12, 14}
        places = 4 * (len(batches) + ahead)  # of all batches that came, and of what may run ahead of the update
        deadline = time.monotonic() + 10
        while len(begun) < places and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.2)
        assert len(begun) == places
    finally:
        dispatcher.destroy()


def test_a_server_that_ends_while_it_starts_is_noticed_at_once():
    """AReaL would ask a dead server for its health until `setup_timeout`."""
    config = InferenceEngineConfig(backend="sglang:d1", experiment_name="e", trial_name="t", setup_timeout=60)
    client = SGLangRollouts(config)
    ended = subprocess.Popen([sys.executable, "-c", "raise SystemExit(3)"])
    ended.wait()
    client.backend.launch_server = lambda arguments: ended
    with pytest.raises(ServerEnded, match="ended with code 3"):
        client.launch_server({})
    assert client.starting is None and client.check_health("http://127.0.0.1:1") is False


def test_workers_that_do_not_start_say_why(monkeypatch, tmp_path):
    def initialize(self, role, **servers):
        (tmp_path / f"{role}.log").write_text("Could not find nvcc\n")
        raise RuntimeError("server launch failed")

    monkeypatch.setattr(RolloutsController, "initialize", initialize)
    monkeypatch.setenv("AREAL_LLM_SERVER_ADDRS", "127.0.0.1:1")
    trainer = SimpleNamespace(
        rollout_alloc=SimpleNamespace(backend="sglang"), scheduler=SimpleNamespace(log_dir=tmp_path),
        run=SimpleNamespace(records=tmp_path),
        config=SimpleNamespace(max_empty_batches=1, max_failures=1, dynamic_bs=False),
    )  # fmt: skip
    config = InferenceEngineConfig(backend="sglang:d1", experiment_name="e", trial_name="t")
    with pytest.raises(RuntimeError, match=r"(?s)rollout workers did not start.*rollout.log, ends:.*not find nvcc"):
        controller.connect(trainer, config, is_eval=False)


def test_a_completion_that_an_update_cut_short_asks_on_at_once(monkeypatch):
    def initialize(self, *args, **kwargs):
        self._workflow_executor = SimpleNamespace(is_paused=lambda: True, runner=SimpleNamespace())

    monkeypatch.setattr(RemoteInfEngine, "initialize", initialize)
    config = InferenceEngineConfig(backend="sglang:d1", experiment_name="e", trial_name="t")
    client, asked = SGLangRollouts(config), []
    client.addresses = ["server:1"]
    client.initialize()
    ends = iter(["abort", "stop"])

    async def request(payload, **_):
        asked.append(payload["input_ids"])
        token = [[-0.5, 7, None]]
        return {"meta_info": {"finish_reason": {"type": next(ends)}, "output_token_logprobs": token}}

    async def session():
        return None

    def sleep(seconds):
        raise AssertionError(f"it sleeps {seconds} s")

    monkeypatch.setattr(asyncio, "sleep", sleep)
    monkeypatch.setattr(remote_inf_engine, "arequest_with_retry", request)
    monkeypatch.setattr(workflow_context, "get_aiohttp_session", session)
    wanted = GenerationHyperparameters(max_new_tokens=8, max_tokens=64)
    completion = asyncio.run(client.agenerate(ModelRequest(input_ids=[1, 2], gconfig=wanted)))
    assert completion.output_tokens == [7, 7]
    assert asked == [[1, 2], [1, 2, 7]]


class Loader:
    batch_size = 4


def test_empty_batches_are_collected_again_up_to_the_bound(client):
    only = group(0)
    engine = client([[], [], [only], [], [], []])
    engine.max_empty_batches = 2
    assert engine.prepare_batch(Loader()) == [only]
    with pytest.raises(NoSignal, match=r"3 batches in a row.*drop_groups_without_signal=false"):
        engine.prepare_batch(Loader())


@pytest.mark.parametrize(("max_staleness", "under_way"), [(0, 0), (1, 4), (2, 8)])
def test_prompts_are_submitted_up_to_the_staleness_bound(client, max_staleness, under_way):
    engine = client([[group(0)], [group(8)]], max_staleness)
    engine.prepare_batch(Loader())
    assert len(engine.workflow_executor.dispatcher._active_task_ids) == under_way  # noqa: SLF001 - AReaL's queue
    engine.prepare_batch(Loader())  # none of them was consumed: nothing more to submit
    assert len(engine.workflow_executor.dispatcher._active_task_ids) == under_way  # noqa: SLF001 - AReaL's queue


def test_a_batch_comes_in_data_order(client):
    (batch,) = [client([[group(16), group(0), group(8)]]).prepare_batch(Loader())]
    assert [made["sample_id"][0].item() for made in batch] == [0, 8, 16]


def test_a_controller_gives_up_when_too_many_prompts_in_a_row_bring_no_group(monkeypatch, tmp_path):
    async def nothing():
        return None

    async def group():
        return "group"

    monkeypatch.setattr(RolloutController, "_create_submit_callback", lambda self, prompt: prompt)
    controller = object.__new__(RolloutsController)
    controller.max_lost, controller.records = 3, tmp_path
    for prompt in (nothing, nothing, group, nothing, nothing):  # a good one between starts anew
        asyncio.run(controller._create_submit_callback(prompt)())
    assert given_up(tmp_path) is None
    asyncio.run(controller._create_submit_callback(nothing)())
    assert "3 prompts in a row" in given_up(tmp_path)
