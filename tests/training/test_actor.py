from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

pytest.importorskip("areal", reason="areal is not installed")

from areal.api import WeightUpdateMeta
from areal.engine import FSDPPPOActor

from areal_gsm8k.training import actor as actor_module
from areal_gsm8k.training.actor import PackedActor


@pytest.fixture
def actor(monkeypatch):
    """A PackedActor without a model: only its own methods are called. Its rows are its groups themselves."""
    bare = object.__new__(PackedActor)
    bare.on_advantages, bare.shuffle_seed = bare.keep_rows, None
    monkeypatch.setattr(FSDPPPOActor, "is_data_parallel_head", lambda self: True)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: 0)
    monkeypatch.setattr("areal_gsm8k.training.actor.sample_rows", lambda groups, version, rank: list(groups))
    monkeypatch.setattr(FSDPPPOActor, "get_version", lambda self: 7)
    monkeypatch.setattr(FSDPPPOActor, "compute_advantages", lambda self, data: data)
    return bare


def test_the_servers_logprobs_are_kept_before_areal_overwrites_them(actor, monkeypatch):
    def overwriting(self, data):  # what AReaL does without the decoupled loss
        return [group | {"logprobs": group["prox_logp"]} for group in data]

    monkeypatch.setattr(FSDPPPOActor, "compute_advantages", overwriting)
    group = {"logprobs": torch.tensor([[0.0, -1.0, -2.0]]), "prox_logp": torch.tensor([[-1.5, -2.5, 9.0]])}
    (after,) = actor.compute_advantages([group | {"sample_id": torch.tensor([4])}])
    assert actor.take_rows()[0]["rollout_logprobs"].tolist() == [[-1.0, -2.0, 0.0]]
    assert set(after) == {"logprobs", "prox_logp"}


def test_the_control_permutes_rewards_and_nothing_else(actor):
    actor.shuffle_rewards(1)
    rewards = torch.arange(8.0)
    groups = [{"rewards": part, "sample_id": part.long() + 50} for part in rewards.split(4)]
    shuffled = actor.compute_advantages(groups)
    flat = torch.cat([group["rewards"] for group in shuffled])
    assert sorted(flat.tolist()) == rewards.tolist() and flat.tolist() != rewards.tolist()
    assert [row["sample_id"].tolist() for row in actor.take_rows()] == [[50, 51, 52, 53], [54, 55, 56, 57]]
    assert actor.take_rows() == []
    assert all("sample_id" not in group for group in shuffled)
    assert groups[0]["rewards"].tolist() == [0, 1, 2, 3]  # the caller's rewards are left alone


def test_new_weights_are_named_when_whole_and_the_old_ones_go_when_all_servers_have_them(actor, monkeypatch, tmp_path):
    log = []

    class Loading:
        def result(self):
            log.append("loaded")

    class Servers:
        def pause_generation(self):
            log.append("paused")

        def update_weights_from_disk(self, meta):
            assert not meta.clear_checkpoint_after_load  # a server may have to be restarted with them
            assert old.exists()
            return Loading()

        def continue_generation(self):
            log.append("continued")

    def save(path, tokenizer, processor):
        Path(path).mkdir()
        log.append("saved")

    old, new = tmp_path / "v1", tmp_path / "v2"
    old.mkdir()
    monkeypatch.setattr(actor_module, "dist", SimpleNamespace(get_rank=lambda: 0, barrier=lambda group: None))
    monkeypatch.setattr(actor_module.name_resolve, "add", lambda *_, **__: None)
    monkeypatch.setattr(PackedActor, "cpu_group", None)
    actor.tokenizer = actor.processor = None
    actor.config = SimpleNamespace(experiment_name="e", trial_name="t")
    actor._save_model_to_hf, actor.rollout_engine, actor.served = save, Servers(), str(old)  # noqa: SLF001 - called by AReaL's engine
    actor.on_weights_saved = lambda folder: log.append(f"named {Path(folder).name}")
    actor._update_weights_from_disk(WeightUpdateMeta(type="disk", path=str(new)))  # noqa: SLF001 - called by AReaL's engine
    assert log == ["saved", "named v2", "paused", "loaded", "continued"]
    assert new.exists() and not old.exists()
    actor.load_later = True  # the servers are off the GPU, and load the named folder when they are back
    log.clear()
    actor._update_weights_from_disk(WeightUpdateMeta(type="disk", path=str(tmp_path / "v3")))  # noqa: SLF001 - called by AReaL's engine
    assert log == ["saved", "named v3"]
    assert actor.served == str(tmp_path / "v3") and not new.exists()
