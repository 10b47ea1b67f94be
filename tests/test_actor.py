import pytest
import torch

pytest.importorskip("areal", reason="areal is not installed")

from areal.engine import FSDPPPOActor  # noqa: E402

from areal_gsm8k.loop.actor import NoSignal, PackedActor  # noqa: E402


@pytest.fixture
def actor(monkeypatch):
    """A PackedActor without a model: only its own methods are called."""
    bare = object.__new__(PackedActor)
    bare.on_advantages, bare.max_empty_batches, bare.shuffle_seed = (lambda groups: None), 2, None
    monkeypatch.setattr(FSDPPPOActor, "get_version", lambda self: 7)
    monkeypatch.setattr(PackedActor, "_run_ahead", lambda self: None)
    return bare


def test_empty_batches_are_collected_again_up_to_the_bound(actor, monkeypatch):
    batches = iter([[], [], [{"rewards": 1}], [], [], []])
    monkeypatch.setattr(FSDPPPOActor, "prepare_batch", lambda self: next(batches))
    assert actor.prepare_batch() == [{"rewards": 1}]
    with pytest.raises(NoSignal, match="3 batches in a row.*drop_groups_without_signal=false"):
        actor.prepare_batch()


def test_the_control_permutes_rewards_and_nothing_else(actor, monkeypatch):
    monkeypatch.setattr(FSDPPPOActor, "compute_advantages", lambda self, data: data)
    actor.shuffle_seed = 1
    seen = []
    actor.on_advantages = lambda groups: seen.extend(group["sample_id"].tolist() for group in groups)
    rewards = torch.arange(8.0)
    groups = [{"rewards": part, "sample_id": part.long() + 50} for part in rewards.split(4)]
    shuffled = actor.compute_advantages(groups)
    flat = torch.cat([group["rewards"] for group in shuffled])
    assert sorted(flat.tolist()) == rewards.tolist() and flat.tolist() != rewards.tolist()
    assert seen == [[50, 51, 52, 53], [54, 55, 56, 57]]
    assert all("sample_id" not in group for group in shuffled)
    assert groups[0]["rewards"].tolist() == [0, 1, 2, 3]  # the caller's rewards are left alone
