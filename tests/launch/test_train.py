"""The real thing: GRPO through AReaL against the embedded server, on a tiny model, started as a user starts it."""

import json
import re

import pytest
from areal_here import needs_areal
from runner import train

from areal_gsm8k.replay import kept_models, replay
from areal_gsm8k.replay.regrade import Regrader, summarise, total
from areal_gsm8k.runs import checkpoints, samples
from areal_gsm8k.runs.files import read_lines
from areal_gsm8k.runs.run import Run

pytestmark = [needs_areal, pytest.mark.run]

STEPS = 24


@pytest.fixture(scope="module")
def learned(tmp_path_factory, start_model):
    """A short run that learns, and its output."""
    folder = tmp_path_factory.mktemp("runs")
    done = train(
        f"runs_dir={folder}", "trial_name=t", f"actor.path={start_model}", f"total_train_steps={STEPS}",
        "data.dev_rows=300", "evaluator.freq_steps=12", "saver.freq_steps=12",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    return Run(folder / "tiny-grpo" / "t"), done.stdout


def mean(values):
    values = list(values)
    return sum(values) / len(values)


def test_it_learns_and_training_reward_and_evaluation_agree(learned):
    run, _ = learned
    summary = run.read_summary()
    assert summary["accuracy_after"] - summary["accuracy_before"] > 0.10
    rewards = [row["reward"] for row in run.read_metrics() if "reward" in row]
    assert mean(rewards[-6:]) - mean(rewards[:6]) > 0.05


def test_the_summary_says_what_was_measured_and_how(learned, start_model):
    run, _ = learned
    summary = run.read_summary()
    assert summary["n"] == 300 and summary["steps"] == STEPS and summary["format"] == "hash"
    assert summary["model"] == str(start_model) and summary["data"] == "generated" and summary["split"] == "dev"
    assert summary["wall_seconds"] > 0 and "total_train_steps=24" in summary["command"]
    low, high = summary["interval_after"]
    assert low < summary["accuracy_after"] < high
    before, after = (read_lines(run.evaluation(step))[0] for step in (0, STEPS))
    assert [row["row"] for row in before] == [row["row"] for row in after]
    assert mean(row["lenient"] for row in after) == summary["accuracy_after"]


def test_every_step_is_on_file_with_what_it_consumed(learned):
    run, _ = learned
    metrics = {row["step"]: row for row in run.read_metrics() if "reward" in row}
    assert list(metrics) == list(range(1, STEPS + 1))
    seen = set()
    for step, row in metrics.items():
        samples, _ = read_lines(run.samples(step))
        assert len(samples) == 64
        assert mean(sample["reward"] for sample in samples) == pytest.approx(row["reward"])
        groups = {}
        for sample in samples:
            assert sample["id"] not in seen
            seen.add(sample["id"])
            groups.setdefault(sample["group"], []).append(sample)
            assert set(sample["versions"]) <= set(range(step))
            assert {"question", "completion", "reference", "extracted", "strict", "lenient", "formatted"} <= set(sample)
        for group in groups.values():
            assert len(group) == 8 and len({sample["question"] for sample in group}) == 1
            rewards = [sample["reward"] for sample in group]
            if len(set(rewards)) == 1:
                assert all(abs(sample["advantage"]) < 1e-6 for sample in group)
            else:  # the group's mean is subtracted: right samples gain, wrong ones lose
                assert all((sample["advantage"] > 0) == (sample["reward"] > mean(rewards)) for sample in group)


def test_rollouts_run_ahead_of_the_update(learned):
    run, _ = learned
    staleness = [row["staleness"] for row in run.read_metrics() if "reward" in row]
    assert staleness[0] == 0 and mean(staleness[1:]) > 0.3


def test_the_directory_holds_all_it_promises(learned):
    run, output = learned
    for file in (
        run.config,
        run.summary,
        run.plots / "curves.png",
        run.logs / "trainer_0.log",
        run.logs / "server_0.log",
    ):
        assert file.stat().st_size > 0, file
    for checkpoint in ("best", "last", "step_00012", "step_00024"):
        assert (run.checkpoints / checkpoint / "model.safetensors").exists()
        assert json.loads((run.checkpoints / checkpoint / "config.json").read_text())["model_type"] == "qwen2"
    assert not list(run.checkpoints.glob(".*"))
    assert run.status()["phase"] == "finished"
    for said in ("24 steps of 8 problems x 8 completions", "dev accuracy", "tokens/s", str(run.checkpoints / "last")):
        assert said in output
    assert re.search(r"accuracy .*%.*points", output)


def test_the_last_checkpoint_scores_what_the_summary_says(learned):
    """A fresh process, the checkpoint from disk, Hugging Face's own greedy decoding: the same completions."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from areal_gsm8k.data import prompts

    run, _ = learned
    tokenizer = AutoTokenizer.from_pretrained(run.checkpoints / "last")
    model = AutoModelForCausalLM.from_pretrained(run.checkpoints / "last", dtype=torch.float32).eval()
    stops = prompts.stop_ids(tokenizer)
    for row in read_lines(run.evaluation(STEPS))[0][:20]:
        ids = prompts.prompt_ids(tokenizer, row["question"], "hash")
        output = model.generate(torch.tensor([ids]), do_sample=False, max_new_tokens=48, eos_token_id=stops)
        assert tokenizer.decode(output[0, len(ids) :], skip_special_tokens=True) == row["completion"]


def test_a_sample_is_generated_again_token_for_token_by_the_version_that_drew_it(learned):
    """From the start model, numbered and best checkpoints and recovery points; each sample then shared its batch."""
    run, _ = learned
    config = samples.configuration(run)
    assert [checkpoints.version(run.checkpoints / name) for name in ("last", "step_00012", "step_00024")] == [
        24,
        12,
        24,
    ]
    kept = {policy.version for policy in kept_models.kept(run, config)}
    assert {0, 12, 20, 24} <= kept  # 20: a recovery point
    drawn = {version: [] for version in kept}  # a sample that an update interrupted has two versions
    for step in samples.steps(run):
        for row in samples.read(run, step):
            if len(row["versions"]) == 1 and row["versions"][0] in kept:
                drawn[row["versions"][0]].append(row)
    replayed = [
        replay.replay(run, config, row, "auto") for rows in drawn.values() for row in rows[:: max(1, len(rows) // 5)]
    ]
    assert 0 in {again.policy.version for again in replayed} and len(replayed) >= 8
    for again in replayed:
        assert again.reasons == [] and again.recorded is not None
        assert again.same or again.departure.missed_by < 1e-6, again  # float rounding: sums in another order


def test_regraded_by_its_own_reward_a_run_keeps_every_advantage(learned):
    run, _ = learned
    regrader = Regrader(run, samples.configuration(run), ["accuracy=1"])
    change = total([summarise(regrader.step(step)) for step in samples.steps(run)])
    assert change.samples == STEPS * 64 and change.disagreement < 1e-5
    assert (change.sign_changes, change.gained, change.lost, change.otherwise) == (0, 0, 0, 0)


def test_at_learning_rate_zero_rollout_and_trainer_agree(tmp_path, start_model):
    """32 and more sequences packed together; versions change every step, weights do not, so every token must agree."""
    done = train(
        f"runs_dir={tmp_path}", "trial_name=t", f"actor.path={start_model}", "actor.lr=0", "total_train_steps=3",
        "data.dev_rows=64", "actor.mb_spec.max_tokens_per_mb=4096", "kl_reference=true", "kl_steps=2",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    run = Run(tmp_path / "tiny-grpo" / "t")
    gaps = [sample["logprob_gap"] for step in (1, 2, 3) for sample in read_lines(run.samples(step))[0]]
    assert len(gaps) == 192 and max(gaps) < 1e-4
    kl = {row["step"]: row["kl"] for row in run.read_metrics() if "kl" in row}
    assert set(kl) == {1, 3} and all(abs(found) < 1e-5 for found in kl.values())  # it is the start model still
    summary = run.read_summary()
    assert summary["accuracy_before"] == summary["accuracy_after"] and summary["gained"] == summary["lost"] == 0
