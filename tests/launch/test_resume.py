"""Going on: what a resumed run keeps and refuses. What it repeats is in test_same_steps.py."""

import os

import pytest
from runner import Running, train

from areal_gsm8k.config import compose
from areal_gsm8k.config.schema import ConfigError
from areal_gsm8k.launch import resume
from areal_gsm8k.paths import CPU_OVERLAY
from areal_gsm8k.runs.run import Run


@pytest.fixture
def written(tmp_path, untrained_model):
    """A run of which only the configuration was written."""
    plan = compose.make_plan(
        [CPU_OVERLAY], [f"runs_dir={tmp_path}", "trial_name=t", f"actor.path={untrained_model}"], gpus=0
    )
    run = Run.create(plan.run_dir)
    compose.write(plan, run.config)
    return run, plan


def test_the_plan_of_a_resumed_run_is_the_one_it_was_started_with(written):
    run, plan = written
    again = resume.reopen(run.root, [], gpus=0)
    assert again.values == plan.values and again.run_dir == run.root and again.allocation == plan.allocation


def test_a_moved_run_is_resumed_where_it_lies(written, tmp_path):
    run, _ = written
    moved = tmp_path / "elsewhere"
    run.root.rename(moved)
    values = resume.reopen(moved, [], gpus=0).values
    assert values["cluster"]["fileroot"] == values["rollout"]["fileroot"] == str(moved / "areal")
    assert str(run.root) not in str(values)


def test_only_what_does_not_change_the_learning_may_be_set_anew(written):
    run, _ = written
    again = resume.reopen(run.root, ["total_train_steps=7", "stats_logger.wandb.wandb_api_key=planted"], gpus=0)
    assert again.get("total_train_steps") == 7
    assert again.environment == {"WANDB_API_KEY": "planted"} and "planted" not in again.to_yaml()
    with pytest.raises(ConfigError, match=r"actor.optimizer.lr: a resumed run keeps its configuration"):
        resume.reopen(run.root, ["actor.lr=1e-3"], gpus=0)
    with pytest.raises(ConfigError, match="Did you mean 'total_train_steps'"):
        resume.reopen(run.root, ["total_train_step=7"], gpus=0)


def test_a_run_of_an_older_version_gets_the_defaults_of_keys_it_did_not_have(written):
    run, plan = written
    del plan.values["collapse"]
    compose.write(plan, run.config)
    again = resume.reopen(run.root, ["collapse.stop=true", "collapse.reward=0.3"], gpus=0)
    assert again.values["collapse"] == {
        "stop": True, "reward": 0.3, "entropy": 5.0, "truncated": 0.5, "logprob_drift": 0.5
    }  # fmt: skip


def test_a_run_of_the_single_controller_is_not_resumed(written):
    run, plan = written
    plan.values["scheduler"]["type"] = "local"
    compose.write(plan, run.config)
    with pytest.raises(ConfigError, match=r"scheduler.type=local.*save no recovery points.*checkpoints/last"):
        resume.reopen(run.root, [], gpus=0)


def test_a_folder_without_a_run_is_an_error_that_shows_the_runs_beside_it(written):
    run, _ = written
    for wrong in (run.root.parent, run.root.parent / "tt"):
        with pytest.raises(ConfigError, match=f"no run there.*{run.root}"):
            resume.reopen(wrong, [], gpus=0)


def test_resume_and_config_exclude_each_other(written):
    run, _ = written
    done = train("--resume", str(run.root), timeout=30, cold=True)  # `train` gives --config
    assert done.returncode == 2 and "keeps its configuration" in done.stdout


def test_a_live_run_is_refused_with_its_process(written, tmp_path):
    run, _ = written  # this process holds it
    other = Running(tmp_path / "o", resume=run.root, cold=True)
    assert other.finish(30) == 2 and f"is running, as process {os.getpid()}" in other.text()
