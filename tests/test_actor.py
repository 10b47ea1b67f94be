import pytest
import torch

pytest.importorskip("areal", reason="areal is not installed")

from areal.engine import FSDPPPOActor  # noqa: E402

from areal_gsm8k.loop.actor import PackedActor  # noqa: E402


@pytest.fixture
def actor(monkeypatch):
    """A PackedActor without a model: only its own methods are called."""
    bare = object.__new__(PackedActor)
    bare.on_advantages, bare.shuffle_seed = (lambda groups: None), None
    monkeypatch.setattr(FSDPPPOActor, "get_version", lambda self: 7)
    monkeypatch.setattr(FSDPPPOActor, "compute_advantages", lambda self, data: data)
    return bare


def test_the_servers_logprobs_are_kept_before_areal_overwrites_them(actor, monkeypatch):
    def overwriting(self, data):  # what AReaL does without the decoupled loss
        return [group | {"logprobs": group["prox_logp"]} for group in data]

    monkeypatch.setattr(FSDPPPOActor, "compute_advantages", overwriting)
    seen = []
    actor.on_advantages = seen.extend
    group = {"logprobs": torch.tensor([[0.0, -1.0, -2.0]]), "prox_logp": torch.tensor([[-1.5, -2.5, 9.0]])}
    (after,) = actor.compute_advantages([group | {"sample_id": torch.tensor([4])}])
    assert seen[0]["rollout_logprobs"].tolist() == [[-1.0, -2.0, 0.0]]
    assert set(after) == {"logprobs", "prox_logp"}


def test_the_control_permutes_rewards_and_nothing_else(actor):
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
