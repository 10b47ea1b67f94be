"""`collapse.stop`: a run found collapsing ends after the step, with everything saved that is needed to go on."""

import pytest
from areal_here import needs_areal
from runner import train

from areal_gsm8k.launch import resume
from areal_gsm8k.runs import recovery
from areal_gsm8k.runs.run import COLLAPSED, Run


@needs_areal
@pytest.mark.run
def test_a_collapsing_run_is_stopped_saved_and_can_go_on(tmp_path, start_model):
    """With no difference of rollout and trainer allowed, every run collapses at the first step that is judged."""
    done = train(
        f"runs_dir={tmp_path}", "trial_name=t", f"actor.path={start_model}", "collapse.stop=true",
        "collapse.logprob_drift=0", "total_train_steps=20", "data.dev_rows=16", "evaluator.freq_steps=20",
    )  # fmt: skip
    run = Run(tmp_path / "tiny-grpo" / "t")
    assert done.returncode == 1, done.stdout
    assert run.status()["phase"] == COLLAPSED and run.status()["step"] == 10
    assert [row["step"] for row in run.read_metrics()] == list(range(11))
    assert recovery.newest(run)[0].step == 10
    for name in ("best", "last"):
        assert (run.checkpoints / name / "model.safetensors").exists()
        assert str(run.checkpoints / name) in done.stdout
    assert "Stopped after step 10, collapsing: rollout and trainer logprobs differ by" in done.stdout
    assert "1. learning rate too high" in done.stdout and "actor.lr=3e-05" in done.stdout
    assert f"--resume {run.root} collapse.stop=false" in done.stdout
    again = resume.reopen(run.root, ["collapse.stop=false"], gpus=0)
    assert again.get("collapse.stop") is False and again.get("collapse.logprob_drift") == 0
