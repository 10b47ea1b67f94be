"""Every algorithm recipe against its paper: one update by AReaL, and the loss of areal_gsm8k/grading/algorithms.py.

Eight recorded completions of a tiny model are updated on; the gradients must agree, with the clip, the gate or the
penalty in action, because the policy that sampled is not quite the one that is updated. Samples are fresh, or stale:
then the policy that sampled is not the one of the step's start either, and one completion has to be left out.
"""

import pkgutil
import re
from types import SimpleNamespace

import pytest
import torch
from omegaconf import OmegaConf
from torch.nn.utils.rnn import pad_sequence

pytest.importorskip("areal", reason="areal is not installed")

from areal_gsm8k.config import recipes
from areal_gsm8k.config.compose import make_plan, write
from areal_gsm8k.grading import algorithms
from areal_gsm8k.paths import BASE, CPU_OVERLAY, PROJECT

G, PROMPT, LIMIT = 4, 5, 16  # completions a prompt; prompt tokens; most new tokens
LENGTHS = (3, 16, 9, 12, 5, 14, 7, 10)  # tokens of the completions; the second is as long as can be
REWARDS = torch.tensor([[1.0, 0.0, 0.0, 1.0], [1.0, 1.0, 1.0, 0.0]])
KL = 0.1  # large enough to be seen


# The recorded batch


@pytest.fixture(scope="module")
def model(untrained_model):
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(untrained_model, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def recorded(model):
    """`fresh` and `stale` completions: ids; logprobs under the policies of the step's start, of the sampling and of
    the reference, all near the model's own."""
    generator = torch.Generator().manual_seed(0)
    draw = lambda n: torch.randn(n, generator=generator)  # noqa: E731
    rows = [torch.randint(10, model.config.vocab_size, (PROMPT + n,), generator=generator) for n in LENGTHS]
    with torch.no_grad():
        own = [logprobs(model, row) for row in rows]
    prox = [own_T + 0.3 * draw(len(own_T)) for own_T in own]
    reference = [own_T + 0.5 * draw(len(own_T)) for own_T in own]
    for one, log_ratio in ((0, 3.5e-4), (1, -3.5e-4)):  # of the whole completion: between GSPO's 3e-4 and 4e-4
        prox[one] += (own[one] - prox[one]).mean() - log_ratio
    behave = [prox_T + 0.3 * draw(len(prox_T)) for prox_T in prox]
    behave[2] -= 2.5  # every token, and so the completion, is over five times likelier by now
    behave[1][4] -= 2.5  # this token alone
    fresh = SimpleNamespace(rows=rows, prox=prox, behave=prox, reference=reference)
    return SimpleNamespace(fresh=fresh, stale=SimpleNamespace(**vars(fresh) | {"behave": behave}))


def logprobs(model, row):
    """Of the completion's tokens, (T,)."""
    logits_TV = model(row[None]).logits[0].log_softmax(-1)
    return logits_TV[PROMPT - 1 : -1].gather(-1, row[PROMPT:, None]).squeeze(-1)


def groups(recorded, reference=False):
    """The completions as the rollout workflow hands them to the trainer, with the trainer's logprobs."""
    return [_group(recorded, slice(first, first + G), reference) for first in range(0, len(LENGTHS), G)]


def _group(recorded, part, reference):
    pad = lambda rows: pad_sequence(rows, batch_first=True)  # noqa: E731
    rows = recorded.rows[part]
    behind_prompt = lambda values: pad([torch.cat([torch.zeros(PROMPT), one]) for one in values])  # noqa: E731
    behave_GT = behind_prompt(recorded.behave[part])
    group = {
        "input_ids": pad(rows).int(),
        "attention_mask": pad([torch.ones(len(row), dtype=torch.bool) for row in rows]),
        "loss_mask": pad([(torch.arange(len(row)) >= PROMPT).int() for row in rows]),
        "logprobs": behave_GT,
        "prox_logp": behind_prompt(recorded.prox[part]).roll(-1, dims=-1),
        "versions": torch.zeros_like(behave_GT).int(),
        "rewards": REWARDS[part.start // G].clone(),
        "sample_id": torch.arange(part.start, part.stop),
    }
    return group | ({"ref_logp": behind_prompt(recorded.reference[part]).roll(-1, dims=-1)} if reference else {})


# The update by AReaL


@pytest.fixture(scope="module")
def config_of(untrained_model, tmp_path_factory):
    """A run's typed configuration with the recipe of that name on the CPU recipe; `areal_grpo`: train_grpo.yaml's."""
    from areal_gsm8k.training.run_config import load_config

    def config(name):
        fixed = [f"actor.path={untrained_model}", "kl_reference=false", "actor.optimizer.gradient_clipping=1e9"]
        fixed += [f"gconfig.n_samples={G}", f"gconfig.max_new_tokens={LIMIT}", "actor.mb_spec.max_tokens_per_mb=64"]
        if name == "areal_grpo":
            base = OmegaConf.load(BASE).actor
            fixed += [f"actor.eps_clip={base.eps_clip}", f"actor.adv_norm={OmegaConf.to_container(base.adv_norm)}"]
        overlays = [CPU_OVERLAY] if name == "areal_grpo" else [CPU_OVERLAY, recipes.find(name)]
        file = tmp_path_factory.mktemp(name) / "config.yaml"
        write(make_plan(overlays, fixed, gpus=0), file)
        return load_config(file)

    return config


def actor_of(config):
    from areal.api import FinetuneSpec
    from areal.api.alloc_mode import ModelAllocation

    from areal_gsm8k.training.actor import PackedActor

    actor = PackedActor(config.actor)
    actor.create_process_group(ModelAllocation.from_str("fsdp:d1", name="actor").parallel)
    actor.initialize(addr=None, ft_spec=FinetuneSpec(total_train_epochs=1, dataset_size=8, train_batch_size=8))
    return actor


@pytest.fixture(scope="module")
def one_actor(spmd, config_of):
    actor = actor_of(config_of("grpo"))
    return actor, {name: weight.detach().clone() for name, weight in actor.model.named_parameters()}


@pytest.fixture
def updating(one_actor):
    """The actor with its first weights, set to a configuration."""
    from areal.trainer.ppo.actor import PPOActor

    actor, first = one_actor

    def with_config(config):
        actor.config, actor.actor = config.actor, PPOActor(config.actor, actor)
        actor.reduce_loss(config.loss_reduction)
        return actor

    yield with_config
    with torch.no_grad():
        for name, weight in actor.model.named_parameters():
            weight.copy_(first[name])


def updated(actor, batch):
    """One step of the trainer on these groups, as areal/trainer/rl_trainer.py makes it."""
    actor.ppo_update(actor.compute_advantages(batch))
    actor.export_stats()


# The same in plain PyTorch


def batch_of(model, recorded):
    """The completions as grading/algorithms.py takes them, with the model's own logprobs, which have a gradient."""
    pad = lambda rows: pad_sequence(rows, batch_first=True)  # noqa: E731
    return algorithms.Batch(
        rewards_PG=REWARDS,
        mask_BT=pad([torch.ones(n) for n in LENGTHS]),
        theta_BT=pad([logprobs(model, row) for row in recorded.rows]),
        prox_BT=pad(recorded.prox),
        behave_BT=pad(recorded.behave),
        limit=LIMIT,
        ref_BT=pad(recorded.reference),
    )


ALGORITHMS = ["grpo", "areal_grpo", "dr_grpo", "dapo", "gspo", "rloo", "reinforce_pp", "sapo"]


@pytest.mark.parametrize("samples", ["fresh", "stale"])
@pytest.mark.parametrize("name", ALGORITHMS)
def test_an_update_follows_the_papers_gradient_and_three_run(name, samples, updating, config_of, model, recorded):
    recorded = getattr(recorded, samples)
    config = config_of(name)
    minibatches, config.actor.ppo_n_minibatches = config.actor.ppo_n_minibatches, 1
    config.actor.kl_ctl = KL if config.actor.kl_ctl else 0.0
    actor = updating(config)
    updated(actor, groups(recorded, reference=config.actor.kl_ctl > 0))
    areals = {name: weight.grad.full_tensor() for name, weight in actor.model.named_parameters()}

    model.zero_grad()
    other = {"rloo": {"low": config.actor.eps_clip}, "reinforce_pp": {"beta": KL}}  # than the function's own numbers
    getattr(algorithms, name)(batch_of(model, recorded), **other.get(name, {})).backward()
    papers = {name: weight.grad for name, weight in model.named_parameters()}
    gap = sum((areals[name] - papers[name]).square().sum() for name in papers).sqrt()
    assert gap < 1e-5 * sum(grad.square().sum() for grad in papers.values()).sqrt()

    config.actor.ppo_n_minibatches = minibatches
    before = {name: weight.detach().clone() for name, weight in actor.model.named_parameters()}
    for _ in range(2):
        updated(actor, groups(recorded, reference=config.actor.kl_ctl > 0))
    after = dict(actor.model.named_parameters())
    assert all(weight.isfinite().all() for weight in after.values())
    assert any((after[name] != before[name]).any() for name in before)


@pytest.mark.parametrize("file", ["train_grpo.py", "areal_gsm8k/grading/algorithms.py"])
def test_the_places_that_a_reader_is_sent_to_exist(file):
    places = re.findall(r"\bareal(?:_gsm8k)?(?:\.\w+){3,}", (PROJECT / file).read_text())
    assert len(places) > 5 and all(pkgutil.resolve_name(place) for place in places)


def test_the_step_in_train_grpo_names_functions_of_algorithms():
    step = [line.partition("#")[0] for line in (PROJECT / "train_grpo.py").read_text().splitlines() if "_B" in line]
    called = set(re.findall(r"(?<!\.)\b(\w+)\(", "".join(step))) - {"rollout", "logprobs"}
    assert len(called) == 5 and all(hasattr(algorithms, name) for name in called)


HALF, THIRD = 0.75**0.5, 1 / 3


@pytest.mark.parametrize(
    ("name", "advantages"),
    [
        ("grpo", [HALF, -HALF, -HALF, HALF, 0.5, 0.5, 0.5, -1.5]),
        ("dr_grpo", [0.5, -0.5, -0.5, 0.5, 0.25, 0.25, 0.25, -0.75]),
        ("rloo", [2 * THIRD, -2 * THIRD, -2 * THIRD, 2 * THIRD, THIRD, THIRD, THIRD, -1.0]),
    ],
)
def test_advantages_by_hand(name, advantages, updating, config_of, recorded):
    actor = updating(config_of(name))
    actor.ppo_update(actor.compute_advantages(groups(recorded.fresh)))
    assert [row["advantage"] for row in actor.take_rows()] == pytest.approx(advantages, abs=1e-4)


def test_lora_trains_adapters_only_and_saves_a_plain_model(spmd, config_of, model, recorded, tmp_path):
    from transformers import AutoModelForCausalLM

    recorded = recorded.fresh
    actor = actor_of(config_of("lora"))
    trained = [name for name, weight in actor.model.named_parameters() if weight.requires_grad]
    assert trained and all(".lora_" in name for name in trained)
    for _ in range(3):
        updated(actor, groups(recorded))
    actor._save_model_to_hf(str(tmp_path), None, None)  # noqa: SLF001 - called by AReaL's engine
    plain = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    now = torch.cat([logp_GT[:, PROMPT - 1 :].flatten() for logp_GT in actor.compute_logp(groups(recorded))])
    with torch.no_grad():
        saved = [logprobs(plain, row) for row in recorded.rows]
        start = [logprobs(model, row) for row in recorded.rows]
    widths = [max(LENGTHS[first : first + G]) + 1 for first in range(0, len(LENGTHS), G) for _ in range(G)]
    ours = [row[:n] for row, n in zip(now.split(widths), LENGTHS, strict=True)]
    assert max((a - b).abs().max() for a, b in zip(ours, saved, strict=True)) < 1e-4
    assert max((a - b).abs().max() for a, b in zip(start, saved, strict=True)) > 1e-3


def test_in_the_reward_only_k1_has_the_gradient_of_the_kl():
    """AReaL takes the estimate from the reward: the gradient is E[estimate * grad log pi]. docs/algorithms/README.md"""
    from areal.utils.data import KLEstimator

    generator = torch.Generator().manual_seed(0)
    theta, reference = torch.randn(2, 6, generator=generator, dtype=torch.float64).log_softmax(-1)
    theta.requires_grad_()

    def gradient(loss):
        return torch.autograd.grad(loss, theta)[0]

    def in_the_reward(estimator):
        policy = theta.log_softmax(-1)
        estimate = KLEstimator(estimator)(policy.detach(), reference).double()
        return gradient((policy.exp().detach() * estimate * policy).sum())

    def kl(p, q):
        return (p.exp() * (p - q)).sum()

    reverse = gradient(kl(theta.log_softmax(-1), reference))
    forward = gradient(kl(reference, theta.log_softmax(-1)))
    assert torch.allclose(in_the_reward("k1"), reverse, atol=1e-5)
    assert torch.allclose(in_the_reward("k3"), reverse - forward, atol=1e-5)
    assert not torch.allclose(in_the_reward("k2"), reverse, atol=1e-2)
