from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

pytest.importorskip("areal", reason="areal is not installed")

from areal.api import WeightUpdateMeta
from areal.api.cli_args import PPOActorConfig
from areal.engine import FSDPPPOActor

from areal_gsm8k.training import actor as actor_module
from areal_gsm8k.training.actor import PackedActor


@pytest.fixture
def actor(monkeypatch):
    """A PackedActor without a model: only its own methods are called. An update is AReaL's loss of one microbatch."""
    bare = object.__new__(PackedActor)
    bare.on_advantages, bare.on_update, bare.shuffle_seed = lambda: None, bare.keep_rows, None
    bare.loss_reduction = "token_mean"
    bare.config = PPOActorConfig(experiment_name="t", trial_name="t", path="m", use_decoupled_loss=True)
    monkeypatch.setattr(FSDPPPOActor, "is_data_parallel_head", lambda self: True)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: 0)
    monkeypatch.setattr(FSDPPPOActor, "get_version", lambda self: 7)
    monkeypatch.setattr(FSDPPPOActor, "compute_advantages", lambda self, data: data)
    return bare


def group(ids, **tensors):
    """Two samples of two tokens of prompt and two of completion; AReaL's arrays at position t speak of token t+1."""
    found = {
        "sample_id": torch.tensor(ids),
        "rewards": torch.tensor([1.0, 0.0]),
        "loss_mask": torch.tensor([[0, 1, 1, 0]] * 2),
        "advantages": torch.tensor([[0.0, 1.0, 1.0, 0.0], [0.0, -1.0, -1.0, 0.0]]),
        "versions": torch.tensor([[-1, -1, 7, 7]] * 2),
        "logprobs": torch.tensor([[0.0, 0.0, -1.0, -2.0]] * 2),
    }
    return found | tensors


def updated(actor, groups, own):
    """Rows after an update whose forward pass finds these logprobs, (4,) for every sample in one microbatch."""

    def train_batch(self, input_, loss_fn, loss_weight_fn):
        logprobs = own.repeat(len(input_["sample_id"]))
        flat = {name: value.flatten() for name, value in input_.items() if value.ndim == 2}
        flat["cu_seqlens"] = torch.arange(0, len(logprobs) + 1, 4)
        loss_fn(logprobs, torch.zeros_like(logprobs), flat)
        seen.append(flat)
        return {}

    def ppo_update(self, groups):
        batch = {name: torch.cat([group[name] for group in groups]) for name in groups[0]}
        self.train_batch(batch, lambda *_, **__: torch.tensor(0.0), lambda _: torch.tensor(1))

    seen = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FSDPPPOActor, "train_batch", train_batch)
        patch.setattr(FSDPPPOActor, "ppo_update", ppo_update)
        actor.ppo_update(actor.compute_advantages(groups))
    return actor.take_rows(), seen[0]


OWN = torch.tensor([9.0, -1.5, -2.25, 9.0])


def test_the_gap_is_between_the_servers_logprobs_and_those_of_the_update(actor):
    actor.config.prox_logp_method, actor.config.ppo_n_minibatches = "loglinear", 1
    rows, flat = updated(actor, [group([4, 5]), group([6, 7])], OWN)
    assert [row["id"] for row in rows] == [4, 5, 6, 7]
    assert [row["logprob_gap"] for row in rows] == [0.5] * 4 and rows[0]["logprob_drift"] == 0.375
    assert flat["prox_logp"].tolist() == OWN.repeat(4).tolist()  # pi_prox is the policy of the only update


def test_the_servers_logprobs_are_kept_before_areal_overwrites_them(actor, monkeypatch):
    def overwriting(self, data):  # what AReaL does without the decoupled loss
        return [group | {"logprobs": group["prox_logp"]} for group in data]

    monkeypatch.setattr(FSDPPPOActor, "compute_advantages", overwriting)
    actor.config.prox_logp_method, actor.config.ppo_n_minibatches = "recompute", 2
    before = torch.tensor([[9.0, -1.25, -2.0, 9.0]] * 2)
    rows, flat = updated(actor, [group([4, 5], prox_logp=before)], OWN)
    assert [row["logprob_gap"] for row in rows] == [0.25] * 2  # computed before the batch's first update
    assert flat["prox_logp"].tolist() == before.flatten().tolist()


@pytest.mark.parametrize(
    ("settings", "spared"),
    [({}, True), ({"ppo_n_minibatches": 2}, False), ({"use_decoupled_loss": False}, False)],
)
def test_the_pass_for_pi_prox_is_spared_when_the_batch_gets_one_update(settings, spared):
    settings = {"ppo_n_minibatches": 1, "use_decoupled_loss": True, "recompute_logprob": True} | settings
    config = PPOActorConfig(experiment_name="t", trial_name="t", path="m", **settings)
    actor_module.skip_needless_pass(config)
    assert config.should_compute_prox_logp() is not spared
    assert actor_module.proximal_from_update(config) is spared


def test_the_control_permutes_rewards_and_nothing_else(actor):
    actor.shuffle_rewards(1)
    rewards = torch.arange(8.0)
    ids = torch.arange(50, 58)
    groups = [
        group([0, 0]) | {"rewards": some, "sample_id": of}
        for some, of in zip(rewards.split(2), ids.split(2), strict=True)
    ]
    shuffled = actor.compute_advantages(groups)
    flat = torch.cat([one["rewards"] for one in shuffled])
    assert sorted(flat.tolist()) == rewards.tolist() and flat.tolist() != rewards.tolist()
    assert [one["sample_id"][:, 0].tolist() for one in shuffled] == [[50, 51], [52, 53], [54, 55], [56, 57]]
    assert groups[0]["rewards"].tolist() == [0, 1]  # the caller's rewards are left alone


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
    actor.config = SimpleNamespace(
        experiment_name="e", trial_name="t", dtype="float32", fsdp=SimpleNamespace(offload_params=False)
    )
    actor.model = torch.nn.Linear(1, 1)  # whose folder before holds no weights: AReaL saves
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
