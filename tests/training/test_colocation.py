"""Server and trainer in turns on one GPU: a server as strict as SGLang, and a loop in the order of AReaL's."""

from types import SimpleNamespace

import pytest

pytest.importorskip("areal", reason="areal is not installed")

from areal_gsm8k.config.allocation import parse
from areal_gsm8k.config.devices import check_turns
from areal_gsm8k.config.schema import ConfigError
from areal_gsm8k.training import colocation
from areal_gsm8k.training.colocation import Turns
from areal_gsm8k.training.trainer import GSM8KTrainer


class Server:
    """SGLang 0.5.10 with --enable-memory-saver; what would end it is an AssertionError here."""

    def __init__(self):
        self.released, self.paused, self.weights, self.loads = True, False, None, 0

    def offload(self):
        assert self.paused and not self.released, "released while requests run, or twice"
        self.released, self.weights = True, None

    def onload(self):
        assert self.released, "brought back twice"
        self.released = False

    def load(self, model):
        assert not self.released, "new weights for memory that is released"
        self.weights, self.loads = model, self.loads + 1

    def generate(self):
        assert not self.released and not self.paused
        return self.weights

    def pause_generation(self):
        self.paused = True

    def continue_generation(self):
        assert self.weights, "goes on before it has weights"
        self.paused = False

    def pause(self):
        pass

    resume = pause


class Loop:
    """PPOTrainer of AReaL 1.0.4 as far as turns go: `train` and what it calls (areal/trainer/rl_trainer.py)."""

    def __init__(self, colocated: bool = True):
        self.colocated = self._should_offload_rollout = colocated
        self.turns = Turns()
        self.rollout = self.eval_rollout = Server()
        self.actor = SimpleNamespace(served=None)
        self.config = SimpleNamespace(actor=SimpleNamespace(path="start"))
        self.trained_on, self.evaluated = [], []
        if colocated:
            self._offload_rollout()  # _apply_initial_offload_policy
        else:
            self.rollout.onload()
            self.rollout.load("start")

    def evaluate(self):
        with self._servers_at_work():  # as DevEvaluator does
            self.evaluated.append(self.eval_rollout.generate())

    def train(self, steps: int, evaluated: set[int]) -> None:
        for step in range(1, steps + 1):
            if self._should_offload_rollout:
                self._onload_rollout()
            self.trained_on.append(self.rollout.generate())
            if self._should_offload_rollout:
                self._offload_rollout()
                assert self.rollout.released, "no room for the update"
            self.actor.served = f"step {step}"
            if not self._should_offload_rollout:
                self.rollout.load(self.actor.served)
            if self._should_offload_rollout:
                self._onload_rollout(is_eval=True)
            if step in evaluated:
                self.evaluate()
            if self._should_offload_rollout:
                self._offload_rollout(is_eval=True)


class Trainer(Loop):
    """What GSM8KTrainer does about it."""

    _onload_rollout, _offload_rollout = GSM8KTrainer._onload_rollout, GSM8KTrainer._offload_rollout  # noqa: SLF001 - called by AReaL's loop
    _servers_at_work, _newest_weights = GSM8KTrainer._servers_at_work, GSM8KTrainer._newest_weights  # noqa: SLF001 - called by AReaL's loop


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    monkeypatch.setattr(colocation, "SETTLE_SECONDS", 0)


@pytest.mark.parametrize("colocated", [True, False])
def test_every_batch_and_evaluation_has_the_newest_weights(colocated):
    trainer = Trainer(colocated)
    trainer.evaluate()
    trainer.train(steps=3, evaluated={2})
    trainer.evaluate()
    assert trainer.trained_on == ["start", "step 1", "step 2"]
    assert trainer.evaluated == ["start", "step 2", "step 3"]
    assert trainer.rollout.released == colocated


def test_weights_are_loaded_once_a_turn():
    trainer = Trainer()
    trainer.train(steps=5, evaluated=set())
    assert trainer.rollout.loads == 5  # none for evaluations that are not due


def test_a_failed_evaluation_gives_the_gpu_back():
    trainer = Trainer()
    trainer.eval_rollout.generate = lambda: 1 / 0
    with pytest.raises(ZeroDivisionError):
        trainer.evaluate()
    assert trainer.rollout.released


TURNS = {
    "rollout": {"scheduling_strategy": {"type": "colocation", "target": "actor"}},
    "actor": {"weight_update_mode": "disk", "kl_ctl": 0.0},
    "sglang": {"enable_memory_saver": True},
    "enable_offload": True,
    "scheduler": {"type": None},
}
ONE = parse("sglang.d1+d1")


def test_what_turns_need():
    check_turns(TURNS, ONE)
    check_turns({**TURNS, "rollout": {}, "enable_offload": False}, parse("sglang.d2+d2"))  # no turns, nothing needed
    for change, said in [
        ({"enable_offload": False}, "enable_offload=True (is False)"),
        ({"sglang": {}}, "sglang.enable_memory_saver=True (is None)"),
        ({"scheduler": {"type": "local"}}, "scheduler.type=None (is local)"),
        ({"actor": {"weight_update_mode": "xccl", "kl_ctl": 0.1}}, "disk (is xccl), actor.kl_ctl=0.0 (is 0.1)"),
    ]:
        with pytest.raises(ConfigError) as error:
            check_turns(TURNS | change, ONE)
        assert said in str(error.value)
    with pytest.raises(ConfigError, match="is vllm:d1p1t1"):
        check_turns(TURNS, parse("vllm.d1+d1"))
    turned = {
        **TURNS,
        "rollout": {},
        "actor": {**TURNS["actor"], "scheduling_strategy": {"type": "colocation", "target": "rollout"}},
    }
    with pytest.raises(ConfigError, match="take turns on one GPU"):
        check_turns(turned | {"enable_offload": False}, ONE)
