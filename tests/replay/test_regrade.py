"""Regrading: advantages as AReaL computes them, and what another reward changes in runs written by hand."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner
from written_run import lines, sample, write_run

from areal_gsm8k.cli import app
from areal_gsm8k.config.schema import ConfigError
from areal_gsm8k.grading.advantages import advantages
from areal_gsm8k.replay import kept_models
from areal_gsm8k.replay.regrade import RegradeError, Regrader, summarise, total
from areal_gsm8k.runs.files import to_lines, write_atomically
from areal_gsm8k.runs.samples import configuration

LEVEL = st.sampled_from(["batch", "group", None])
NORM = st.fixed_dictionaries(
    {
        "mean_level": LEVEL, "std_level": LEVEL, "mean_leave1out": st.booleans(), "std_unbiased": st.booleans(),
        "group_size": st.just(4),
    }
)  # fmt: skip
REWARD = st.sampled_from([0.0, 1.0, 0.1, 0.3, -0.5, 1.25, 4.0])


@given(
    rewards=st.lists(REWARD, min_size=8, max_size=8),
    tokens=st.lists(st.integers(1, 6), min_size=8, max_size=8),
    norms=st.tuples(st.none() | NORM, st.none() | NORM),
    scores=st.sampled_from([{}, {"reward_scaling": 10.0, "reward_bias": -0.5}, {"reward_clip": 0.9}]),
)
@settings(max_examples=40, deadline=None)
def test_advantages_are_areals(rewards, tokens, norms, scores):
    """Against AReaL's own actor, by way of its tensors."""
    pytest.importorskip("areal", reason="areal is not installed")
    import torch
    from areal.api.cli_args import NormConfig, PPOActorConfig
    from areal.trainer.ppo.actor import PPOActor

    reward_norm, adv_norm = norms
    prompt, longest = 3, 3 + max(tokens)
    config = PPOActorConfig(
        experiment_name="e", trial_name="t", path="p", kl_ctl=0.0, **scores,
        reward_norm=reward_norm and NormConfig(**reward_norm), adv_norm=adv_norm and NormConfig(**adv_norm),
    )  # fmt: skip
    positions = torch.arange(longest)[None, :]
    lengths = prompt + torch.tensor(tokens)[:, None]
    data = {
        "input_ids": torch.zeros(8, longest, dtype=torch.long),
        "rewards": torch.tensor(rewards),
        "attention_mask": positions < lengths,
        "loss_mask": ((positions >= prompt) & (positions < lengths)).int(),
        "logprobs": torch.zeros(8, longest),
    }
    areal = PPOActor(config, engine=None)._compute_advantages(data)  # noqa: SLF001 - AReaL's own arithmetic
    expected = [
        row[mask.bool()].mean().item() for row, mask in zip(areal["advantages"], areal["loss_mask"], strict=True)
    ]
    actor = scores | {"reward_norm": reward_norm, "adv_norm": adv_norm}
    assert advantages(rewards, tokens, actor).tolist() == pytest.approx(expected, rel=1e-5, abs=1e-5)


GROUP = {"reward_norm": {"mean_level": "group", "std_level": "group", "group_size": 4}}


def test_advantages_worked_out_by_hand():
    paid = advantages([1, 0, 0, 1, 0, 0, 0, 0], [5] * 8, GROUP)
    deviation = (4 * 0.25 / 3) ** 0.5  # with 3 in the denominator: unbiased
    assert paid.tolist() == pytest.approx([x * 0.5 / (deviation + 1e-5) for x in (1, -1, -1, 1)] + [0] * 4)
    assert advantages([1, 0, 0, 1], [5, 0, 5, 5], GROUP)[1] == 0.0  # nothing was generated
    weighted = advantages([1, 0], [3, 1], {"adv_norm": {"mean_level": "batch", "std_level": None}})
    assert weighted.tolist() == pytest.approx([0.25, -0.75])  # the mean over tokens is 3/4


RIGHT, WRONG, PLAIN = "total <<2+3=5>>5\n#### 5", "#### 6", "it is 5"


@pytest.fixture
def run(tmp_path):
    """Three groups of four: with signal; all right, half of it not in the asked-for marker; all wrong."""
    completions = [RIGHT, WRONG, WRONG, RIGHT, RIGHT, PLAIN, RIGHT, PLAIN, WRONG, WRONG, WRONG, WRONG]
    rows = []
    for number, completion in enumerate(completions):
        right = completion != WRONG
        row = sample(number, completion, group=f"0-{number // 4}", lenient=right, reward=float(right))
        row |= {"strict": completion == RIGHT, "formatted": completion != PLAIN}
        rows.append(row | {"completion_tokens": 10, "parts": {"accuracy": float(right)}})
    first = advantages(
        [row["reward"] for row in rows], [10] * 12, {"reward_scaling": 10.0, "reward_bias": -0.5} | GROUP
    )
    rows = [row | {"advantage": advantage} for row, advantage in zip(rows, first.tolist(), strict=True)]
    return write_run(tmp_path, {1: rows, 2: rows})


def regraded(run, *rewards, step=1):
    regrader = Regrader(run, configuration(run), list(rewards))
    try:
        found = regrader.step(step)
    finally:
        regrader.close()
    return found, summarise(found)


def shown(run, *options):
    return CliRunner().invoke(app, ["replay", str(run.root), *map(str, options)])


def test_the_runs_own_reward_changes_nothing(run):
    found, change = regraded(run, "accuracy=1")
    assert [one.reward for one in found] == [one.row["reward"] for one in found]
    assert [one.advantage for one in found] == [one.row["advantage"] for one in found]
    assert (change.sign_changes, change.gained, change.lost, change.errors, change.otherwise) == (0, 0, 0, 0, 0)
    assert change.disagreement < 1e-9 and change.reward_before == change.reward == 0.5
    output = shown(run, "--reward", "accuracy=1").output
    assert "the advantages computed here are the recorded ones" in output and "No advantage changes." in output


def test_another_reward_is_laid_over_the_runs(run):
    found, change = regraded(run, "format=0.5")
    assert [one.reward for one in found[:6]] == [1.5, 0.5, 0.5, 1.5, 1.5, 1.0]
    assert found[5].parts == {"accuracy": 1.0, "format": 0.0}
    assert (change.sign_changes, change.gained, change.lost, change.groups) == (4, 1, 0, 3)
    assert [round(one.advantage, 3) for one in found[4:8]] == [0.866, -0.866, 0.866, -0.866]
    assert [one.advantage for one in found[8:]] == [0.0] * 4
    _, change = regraded(run, "accuracy=0,format=1")
    assert (change.sign_changes, change.gained, change.lost) == (8, 1, 1)
    both = total([change, change])
    assert (both.samples, both.sign_changes, both.groups, both.lost) == (24, 16, 6, 2)
    assert both.reward_before == change.reward_before and both.reward == pytest.approx(10 / 12)


def test_the_steps_the_total_and_the_samples_that_change_most_are_shown(run, tmp_path):
    out = tmp_path / "new" / "regraded.jsonl"
    before = {file: file.read_bytes() for file in run.root.rglob("*") if file.is_file()}
    result = shown(
        run, "--reward", "format=0.5", "--reward", "length=0.1", "--reward", "length_target=10", "--out", out
    )
    assert result.exit_code == 0, result.output
    output = result.output
    assert "paid before: accuracy=1.0\npaid now:    accuracy=1.0, format=0.5, length=0.1, length_target=10\n" in output
    for name, count, signs, gained in ("1", 12, 4, 1), ("2", 12, 4, 1), ("all", 24, 8, 2):
        figures = [name, str(count), "0.500", "0.917", str(signs), str(gained), "0", "0"]
        assert figures in [line.split() for line in output.splitlines()]
    assert "step 1, sample 4, group 0-1, right: reward 1 -> 1.5, advantage 0 -> +0.866\nquestion    2 + 3?" in output
    assert output.count("\nstep ") == 8 and str(out) in output
    written = lines(out.read_text())
    assert len(written) == 24 and written[5]["completion"] == PLAIN and written[5]["step"] == 1
    assert written[5]["regraded"]["reward"] == 1.0 and written[5]["regraded"]["advantage"] == pytest.approx(
        -0.866, abs=1e-3
    )
    assert before == {file: file.read_bytes() for file in run.root.rglob("*") if file.is_file()}
    assert [file.name for file in out.parent.iterdir()] == [out.name]
    assert "\n    all       12" in shown(run, "--reward", "format=1", "--steps", "2-9").output
    assert "\n    all       12" in shown(run, "--reward", "format=1", "--step", 1).output


OWN = """
def fn(prompt, completion, prompt_ids, completion_ids, **row):
    assert prompt.startswith("<|user|>2 + 3?") and prompt_ids[0] != completion_ids[0]
    assert row["answer"].endswith("#### 5") and row["question"] == "2 + 3?" and row["id"] == "train-0"
    if completion == "it is 5":
        raise ValueError("no marker [/red]")
    return len(completion_ids)
"""


def test_a_function_of_the_users_own_whose_failures_are_errors(run, tmp_path, monkeypatch, untrained_model):
    (tmp_path / "own_regrading.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    config = configuration(run)
    config["tokenizer_path"] = str(untrained_model)
    write_atomically(run.config, json.dumps(config))
    rows = [row | {"row": "train-0"} for row in lines(run.samples(1).read_text())]
    tokenizer = kept_models.tokenizer(run, config)
    rows[0] |= {"completion_ids": [1, 2, 3]}
    write_atomically(run.samples(1), to_lines(rows))
    found, change = regraded(run, "accuracy=0", "custom=own_regrading:fn", "custom_weight=2")
    counts = [3, *(len(tokenizer(one.row["completion"]).input_ids) + 1 for one in found[1:])]
    assert [one.reward for one in found[:5]] == [2.0 * count for count in counts[:5]]
    assert found[5].reward is None and found[5].error == (
        "RewardError: own_regrading:fn raised ValueError: no marker [/red]"
    )
    assert [one.advantage for one in found[4:8]] == [None] * 4  # training rejects the group
    assert (change.errors, change.groups) == (2, 3)
    paid = [number for number in range(12) if number not in (5, 7)]
    assert change.reward == pytest.approx(sum(2.0 * counts[number] for number in paid) / 10)
    assert change.reward_before == pytest.approx(sum(found[number].row["reward"] for number in paid) / 10)
    output = shown(run, "--reward", "custom=own_regrading:fn", "--step", 1).output
    assert "2 samples got no reward" in output and "  2 x RewardError: own_regrading:fn raised" in output
    assert "no marker [/red]" in output


def test_other_verdicts_other_graders_and_other_settings_are_said(run):
    rows = lines(run.samples(1).read_text())
    rows[1] |= {"lenient": True, "reward": 1.0}  # as a grader of another version may have judged
    write_atomically(run.samples(1), to_lines(rows))
    output = shown(run, "--reward", "accuracy=1", "--step", 1).output
    assert "graded by version unknown" in output and "1 samples are judged otherwise" in output
    assert "Not reproduced here: unknown; the configuration or the samples were changed" in output
    write_atomically(run.summary, json.dumps({"grader": "1.0.0"}))
    same = shown(run, "--reward", "accuracy=1", "--step", 2).output
    assert "graded by version 1.0.0" in same and "0 samples are judged otherwise" in same
    config = configuration(run)
    config["actor"] |= {"kl_ctl": 0.1, "gae_lambda": 0.9}
    config["reward"]["shuffled"] = True
    write_atomically(run.config, json.dumps(config))
    write_atomically(run.rejected, to_lines([sample(50, step=1, rejected="no signal")]))
    output = shown(run, "--reward", "accuracy=1", "--step", 1).output
    assert "Not reproduced here: actor.kl_ctl=0.1, actor.gae_lambda=0.9." in output
    assert "the recorded rewards were permuted" in output and "1 samples that no step consumed are not" in output


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--reward", "acuracy=1"), "Did you mean 'reward.accuracy'?"),
        (("--reward", "accuracy=much"), "reward.accuracy takes a number, found 'much'"),
        (("--reward", "accuracy=0"), "no part has a weight other than 0"),
        (("--reward", "shuffled=true"), "reward.shuffled: regrading takes every reward as it is"),
        (("--reward", "length=1,length_target=0"), "reward.length_target is 0"),
        (("--reward", "custom=not_there:fn"), "reward.custom='not_there:fn' cannot be loaded"),
        (("--reward", "format=1", "--steps", "one"), "--steps one: write the first and the last step"),
        (("--reward", "format=1", "--steps", "7-9"), "no samples of these steps; there are steps 1 to 2"),
        (("--reward", "format=1", "--steps", "1-2", "--step", "1"), "give one of the two"),
        (("--reward", "format=1", "--sample", "1"), "one of the two"),
    ],
)
def test_mistakes_are_one_sentence(run, options, message):
    result = shown(run, *options)
    assert result.exit_code == 1 and result.output.startswith("error: ") and message in result.output
    with pytest.raises((ConfigError, RegradeError)):
        Regrader(run, configuration(run), ["shuffled=true"])


def test_nothing_is_written_into_the_run_and_nothing_half(run, tmp_path):
    inside = run.root / "plots" / ".." / "samples" / "step_00001.jsonl"
    result = shown(run, "--reward", "format=1", "--out", inside)
    assert result.exit_code == 1 and "lies in the run, into which nothing is written" in result.output
    out = tmp_path / "regraded.jsonl"
    out.write_text("kept")
    run.samples(2).write_text("{broken\n")
    result = shown(run, "--reward", "format=1", "--out", out)
    assert result.exit_code == 1 and "cannot be read" in result.output
    assert out.read_text() == "kept" and not list(tmp_path.glob(".*"))
