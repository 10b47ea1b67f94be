"""The algorithms as functions of their own: by hand, in their limits, and beside the advantages of a regrade.

That AReaL computes the same is tests/training/test_algorithms.py.
"""

import inspect
import subprocess
import sys
from dataclasses import replace

import pytest
from omegaconf import OmegaConf

torch = pytest.importorskip("torch", reason="torch is not installed")

from areal_gsm8k.config import recipes  # noqa: E402
from areal_gsm8k.config.compose import make_plan  # noqa: E402
from areal_gsm8k.grading import algorithms, rewards  # noqa: E402
from areal_gsm8k.grading.advantages import advantages  # noqa: E402
from areal_gsm8k.paths import BASE, CPU_OVERLAY  # noqa: E402

REWARDS_PG = torch.tensor([[1.0, 0.0, 0.0, 1.0], [1.0, 1.2, 1.0, 0.0], [1.0, 1.0, 1.0, 1.0]]).double()
LENGTHS = (3, 8, 5, 1, 6, 2, 7, 4, 8, 8, 1, 3)
LIMIT = 8
LOSSES = ("grpo", "areal_grpo", "dr_grpo", "dapo", "gspo", "rloo", "reinforce_pp", "sapo")


@pytest.fixture
def batch():
    """Twelve completions under four policies that differ a little."""
    generator = torch.Generator().manual_seed(0)
    theta_BT, *others = torch.randn(4, 12, LIMIT, generator=generator, dtype=torch.float64).mul(0.3).sub(1.0)
    mask_BT = (torch.arange(LIMIT) < torch.tensor(LENGTHS)[:, None]).double()
    return algorithms.Batch(REWARDS_PG, mask_BT, theta_BT.requires_grad_(), *others[:2], LIMIT, others[2])


def on_policy(batch):
    """The same completions when no policy has moved away from the model's."""
    now_BT = batch.theta_BT.detach()
    return replace(batch, prox_BT=now_BT, behave_BT=now_BT)


def gradient(loss, batch):
    return torch.autograd.grad(loss, batch.theta_BT)[0]


# By hand


def test_the_four_advantages():
    rewards_PG = torch.tensor([[1.0, 0.0, 0.0, 1.0], [1.0, 1.0, 1.0, 1.0]])
    half, third = 0.75**0.5, 1 / 3  # 0.5 / std
    close = {"rtol": 0, "atol": 1e-4}
    zeros = [0.0] * 4
    expected = torch.tensor([[half, -half, -half, half], zeros])
    torch.testing.assert_close(algorithms.normalise_by_group(rewards_PG), expected, **close)
    torch.testing.assert_close(algorithms.centre_by_group(rewards_PG), torch.tensor([[0.5, -0.5, -0.5, 0.5], zeros]))
    expected = torch.tensor([[2 * third, -2 * third, -2 * third, 2 * third], zeros])
    torch.testing.assert_close(algorithms.leave_one_out(rewards_PG), expected)
    # three tokens of 1 and one of 0: mean 3/4, std 1/2
    mask_BT = torch.tensor([[1.0, 1.0, 1.0], [1.0, 0.0, 0.0]])
    expected = torch.tensor([[0.5], [-1.5]])
    torch.testing.assert_close(algorithms.normalise_by_batch(torch.tensor([[1.0], [0.0]]), mask_BT), expected, **close)


def test_the_three_reductions():
    x_BT, mask_BT = torch.tensor([[3.0, 3.0, 3.0], [1.0, 9.0, 9.0]]), torch.tensor([[1.0, 1.0, 1.0], [1.0, 0.0, 0.0]])
    assert algorithms.token_mean(x_BT, mask_BT) == 10 / 4
    assert algorithms.sequence_mean(x_BT, mask_BT) == (3 + 1) / 2
    assert algorithms.constant_length(x_BT, mask_BT, limit=5) == 10 / (2 * 5)


@pytest.mark.parametrize(
    ("ratio", "advantage", "slope"),
    [(1.25, 1.0, 1.0), (1.35, 1.0, 0.0), (0.7, 1.0, 1.0), (0.7, -1.0, 0.0), (0.85, -1.0, -1.0), (1.35, -1.0, -1.0)],
)
def test_the_clip_stops_a_ratio_only_on_the_way_it_is_pushed(ratio, advantage, slope):
    ratio = torch.tensor(ratio, requires_grad=True)
    (found,) = torch.autograd.grad(algorithms.clip(ratio, torch.tensor(advantage), 0.2, 0.3), ratio)
    assert found == slope


def test_the_gate_has_slope_1_at_ratio_1_and_falls_off_sooner_for_what_is_pushed_down():
    def slope(ratio, advantage):
        ratio = torch.tensor(ratio, requires_grad=True)
        return torch.autograd.grad(algorithms.gate(ratio, torch.tensor(advantage)), ratio)[0].item()

    assert (slope(1.0, 2.0), slope(1.0, -2.0)) == pytest.approx((2.0, -2.0))
    assert 0 < -slope(3.0, -1.0) < slope(3.0, 1.0) < 1


def test_a_sample_that_is_too_stale_weighs_nothing_and_no_weight_has_a_gradient():
    weight = algorithms.staleness_weight(torch.tensor([0.5, 5.0, 5.1], requires_grad=True))
    assert weight.tolist() == [0.5, 5.0, 0.0] and not weight.requires_grad


def test_dapos_penalty_is_the_rewards():
    tokens_PG = torch.arange(1.0, 101.0)[None]
    found = algorithms.overlong_penalty(tokens_PG, limit=100, buffer=20)[0]
    assert found.tolist() == pytest.approx([rewards.overlong(n, limit=100, buffer=20) for n in range(1, 101)])


# In their limits


def test_on_policy_rloo_is_reinforce(batch):
    reinforce = -(algorithms.leave_one_out(REWARDS_PG).reshape(-1, 1) * batch.theta_BT * batch.mask_BT).sum()
    expected = gradient(reinforce / (len(LENGTHS) * LIMIT), batch)
    torch.testing.assert_close(gradient(algorithms.rloo(on_policy(batch)), batch), expected)


@pytest.mark.parametrize("name", ["gspo", "sapo"])
def test_on_policy_gspo_and_sapo_are_grpo(name, batch):
    ours, grpos = (getattr(algorithms, one)(on_policy(batch)) for one in (name, "grpo"))
    torch.testing.assert_close(gradient(ours, batch), gradient(grpos, batch))


@pytest.mark.parametrize("name", LOSSES)
def test_padding_counts_for_nothing(name, batch):
    loss = getattr(algorithms, name)
    real_BT = batch.mask_BT.bool()
    other = replace(
        batch,
        **{
            key: torch.where(real_BT, getattr(batch, key), 0.5)
            for key in ("theta_BT", "prox_BT", "behave_BT", "ref_BT")
        },
    )
    assert loss(batch).item() == pytest.approx(loss(other).item(), rel=1e-12)
    found_BT = gradient(loss(batch), batch)
    assert (found_BT[~real_BT] == 0).all() and (found_BT[real_BT] != 0).any()


@pytest.mark.parametrize("name", ["grpo", "dr_grpo", "gspo", "rloo", "sapo"])
def test_a_group_of_equal_rewards_teaches_nothing(name, batch):
    found_BT = gradient(getattr(algorithms, name)(batch), batch)
    assert (found_BT[8:] == 0).all() and (found_BT[:8] != 0).any()


def test_the_numbers_that_no_gradient_is_held_to_are_the_recipes():
    defaults = {name: inspect.signature(getattr(algorithms, name)).parameters for name in ("rloo", "reinforce_pp")}
    assert defaults["rloo"]["low"].default == OmegaConf.load(BASE).actor.eps_clip
    assert defaults["reinforce_pp"]["beta"].default == OmegaConf.load(recipes.find("reinforce_pp")).actor.kl_ctl


# Beside a regrade, which reads AReaL's keys and must start without torch


@pytest.mark.parametrize(
    ("recipe", "advantage"),
    [
        ("grpo", algorithms.normalise_by_group),
        ("dr_grpo", algorithms.centre_by_group),
        ("dapo", algorithms.normalise_by_group),
        ("gspo", algorithms.normalise_by_group),
        ("rloo", algorithms.leave_one_out),
        ("sapo", algorithms.normalise_by_group),
        ("reinforce_pp", lambda rewards_PG: rewards_PG),
    ],
)
def test_a_regrade_has_the_recipes_advantages(recipe, advantage, batch):
    actor = make_plan([CPU_OVERLAY, recipes.find(recipe)], ["gconfig.n_samples=4"], gpus=0).values["actor"]
    expected_B1 = advantage(REWARDS_PG).reshape(-1, 1)
    if recipe == "reinforce_pp":
        expected_B1 = algorithms.normalise_by_batch(expected_B1, batch.mask_BT)
    found = advantages(REWARDS_PG.flatten().tolist(), LENGTHS, actor)
    assert found.tolist() == pytest.approx(expected_B1.flatten().tolist(), abs=1e-9)


def test_nothing_else_of_grading_loads_torch():
    modules = ["advantages", "rewards", "parser", "other_graders", "attacks", "custom_reward"]
    program = f"import sys; import {', '.join(f'areal_gsm8k.grading.{name}' for name in modules)}"
    shown = subprocess.run(
        [sys.executable, "-c", program + "; print('torch' in sys.modules)"], capture_output=True, text=True, check=True
    )
    assert shown.stdout.strip() == "False"
