"""Every algorithm and reward recipe in a real run: three steps through AReaL on the tiny model.

    ./run test --algorithms tests/training/test_algorithm_runs.py

A run takes ten seconds and more, so without --algorithms only the one least like GRPO is made. The exact gradients are
in test_algorithms.py; here a run's own files must show that the algorithm was in force. The first step is on-policy, so
the loss that it logged can be computed again from its samples.
"""

import math
import re

import pytest
import torch
from areal_here import needs_areal
from runner import train
from safetensors.torch import load_file

from areal_gsm8k.config import recipes
from areal_gsm8k.grading import algorithms, rewards
from areal_gsm8k.runs.files import read_lines
from areal_gsm8k.runs.run import Run

pytestmark = [needs_areal, pytest.mark.run]

STEPS, LIMIT = 3, 48  # most new tokens: configs/cpu.yaml
ALWAYS = ("dapo",)
SHORT = 30  # new tokens: some completions are cut off, or near it
SETTINGS = {
    **{name: [f"gconfig.max_new_tokens={SHORT}"] for name in ("dapo", "ternary")},
    "tags": ["answer_format=hash"],  # the tiny model knows no other
}


def pytest_generate_tests(metafunc):
    if "recipe" not in metafunc.fixturenames:
        return
    skip = pytest.mark.skip(reason="three steps through AReaL: ./run test --algorithms")
    chosen = [recipe for recipe in recipes.all_recipes() if recipe.kind in ("algorithms", "rewards")]
    wanted = [metafunc.config.getoption("--algorithms") or recipe.name in ALWAYS for recipe in chosen]
    cases = zip(chosen, wanted, strict=True)
    metafunc.parametrize("recipe", [pytest.param(one, id=one.name, marks=[] if on else skip) for one, on in cases])


@pytest.fixture
def run(recipe, start_model, tmp_path):
    done = train(
        "--config", str(recipe.path), f"runs_dir={tmp_path}", "trial_name=t", f"actor.path={start_model}",
        f"total_train_steps={STEPS}", "data.dev_rows=8", *SETTINGS.get(recipe.name, []),
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    return Run(tmp_path / "tiny-grpo" / "t")


def test_three_steps_of_a_recipe(recipe, run, start_model):
    rows = metrics(run)
    assert [row["step"] for row in rows] == list(range(1, STEPS + 1))
    assert all(row["reward_errors"] == 0 and math.isfinite(row["loss"]) for row in rows)
    assert all(math.isfinite(row["grad_norm"]) for row in rows) and max(row["grad_norm"] for row in rows) > 0
    gaps = [row["logprob_gap"] for row in rows if row["logprob_gap"] is not None]
    assert gaps and all(gap < 1e-4 for gap in gaps)
    start, last = (load_file(folder / "model.safetensors") for folder in (start_model, run.checkpoints / "last"))
    assert start.keys() == last.keys() and any((start[name] != last[name]).any() for name in start)
    IN_FORCE[recipe.name](run, {name: last[name] - start[name] for name in start})


# What a run left behind


def metrics(run):
    return [row for row in run.read_metrics() if "reward" in row]


def samples(run):
    """Of all steps."""
    return [row for step in range(1, STEPS + 1) for row in read_lines(run.samples(step))[0]]


def by_group(run, step, *keys):
    """For every key a tensor (groups, completions)."""
    groups = {}
    for row in read_lines(run.samples(step))[0]:
        groups.setdefault(row["group"], []).append(row)
    return [torch.tensor([[float(row[key]) for row in group] for group in groups.values()]) for key in keys]


def areals(run, key):
    """One of AReaL's own statistics, step by step, from the tables that it logs."""
    found = re.findall(rf"│ {key} +│ +(\S+) │", (run.logs / "trainer_0.log").read_text())
    assert len(found) == STEPS, key
    return [float(value) for value in found]


# What shows that a recipe was in force. Each takes the run and the change of the weights.


def has_advantages(run, of_rewards):
    for step in range(1, STEPS + 1):
        rewards_PG, advantages_PG = by_group(run, step, "reward", "advantage")
        assert torch.allclose(advantages_PG, of_rewards(rewards_PG), atol=1e-3)
        assert advantages_PG.abs().max() > 0.1


def has_first_loss(run, of_completion):
    """The loss is logged as a mean over tokens; `of_completion` is one completion's sum, from advantage and tokens."""
    advantages_PG, tokens_PG = by_group(run, 1, "advantage", "completion_tokens")
    token_mean = -(advantages_PG * tokens_PG).sum() / tokens_PG.sum()
    expected = -of_completion(advantages_PG, tokens_PG).sum() / tokens_PG.sum()
    assert metrics(run)[0]["loss"] == pytest.approx(expected.item(), abs=1e-5)
    assert abs(token_mean - expected) > 1e-4  # AReaL's own mean is another


def grpo(run, change):
    has_advantages(run, algorithms.normalise_by_group)
    has_first_loss(run, lambda advantage, tokens: advantage)


def dr_grpo(run, change):
    has_advantages(run, algorithms.centre_by_group)
    has_first_loss(run, lambda advantage, tokens: advantage * tokens / LIMIT)


def rloo(run, change):
    has_advantages(run, algorithms.leave_one_out)
    has_first_loss(run, lambda advantage, tokens: advantage * tokens / LIMIT)


def sapo(run, change):
    has_advantages(run, algorithms.normalise_by_group)
    has_first_loss(run, lambda advantage, tokens: 2 / torch.where(advantage > 0, 1.0, 1.05) * advantage)  # 4/tau s(0)


def gspo(run, change):
    has_advantages(run, algorithms.normalise_by_group)
    ratios = areals(run, "ppo_actor/update/importance_weight/max")
    log_ratios = areals(run, "ppo_actor/update/approx_kl/max")  # of tokens; with ratios by token, the same thing
    assert all(0 < math.log(ratio) < 0.5 * token for ratio, token in zip(ratios, log_ratios, strict=True))
    assert all(row["clip_ratio"] > 0.1 for row in metrics(run))


def dapo(run, change):
    drop_groups_without_signal(run, change)
    has_advantages(run, algorithms.normalise_by_group)
    penalties = [rewards.overlong(row["completion_tokens"], SHORT, SHORT // 5) for row in samples(run)]
    assert [row["reward"] - row["parts"]["accuracy"] for row in samples(run)] == pytest.approx(penalties, abs=1e-5)
    assert min(penalties) == -1.0 and any(-1 < penalty < 0 for penalty in penalties)


def drop_groups_without_signal(run, change):
    for step in range(1, STEPS + 1):
        (right_PG,) = by_group(run, step, "lenient")
        assert (right_PG.std(1) > 0).all()
    rejected, _ = read_lines(run.rejected)
    assert rejected and all("no signal" in row["rejected"] for row in rejected)


def reinforce_pp(run, change):
    kl(run, change)
    for step in range(1, STEPS + 1):
        right_PG, advantages_PG, tokens_PG = by_group(run, step, "reward", "advantage", "completion_tokens")
        assert ((advantages_PG > 0) == (right_PG > 0)).all()  # in groups without signal too: no group baseline
        shares_PG = tokens_PG / tokens_PG.sum()
        assert (shares_PG * advantages_PG).sum().abs() < 1e-3
        assert (shares_PG * advantages_PG.square()).sum().item() == pytest.approx(1, abs=1e-2)


def kl(run, change):
    """The weight in the recipe, times the KL of the rollout policy to the start model, goes off the reward."""
    kls = [row["kl"] for row in metrics(run)]
    assert abs(kls[0]) < 1e-6 < abs(kls[-1])
    assert areals(run, "ppo_actor/kl_rewards/avg")[-1] == pytest.approx(-0.001 * kls[-1], rel=1e-2)


def lora(run, change):
    """Whole matrices in the checkpoint, their changes of the adapter's rank, and nothing else changed."""
    matrices = [name for name in change if "_proj" in name and name.endswith("weight")]
    assert len(matrices) == 21 and not any("lora" in name for name in change)
    assert {torch.linalg.matrix_rank(change[name].double(), rtol=1e-3).item() for name in matrices} == {16}
    assert all((change[name] == 0).all() for name in change if name not in matrices)


def tags(run, change):
    assert all(row["reward"] == 0.5 * row["lenient"] and row["parts"]["think"] == 0 for row in samples(run))
    assert {row["reward"] for row in samples(run)} == {0.0, 0.5}


def ternary(run, change):
    for row in samples(run):
        assert row["reward"] == (-1 if row["truncated"] or row["extracted"] is None else row["lenient"])
    assert {row["reward"] for row in samples(run)} == {-1.0, 0.0, 1.0}


def accuracy_format_length(run, change):
    expected = [
        row["lenient"] + 0.2 * row["formatted"] - 0.2 * (1 - row["completion_tokens"] / 200) for row in samples(run)
    ]
    assert [row["reward"] for row in samples(run)] == pytest.approx(expected, abs=1e-5)


IN_FORCE = {
    one.__name__: one
    for one in (
        dapo, dr_grpo, drop_groups_without_signal, grpo, gspo, kl, lora, reinforce_pp, rloo, sapo,
        accuracy_format_length, tags, ternary,
    )
}  # fmt: skip
