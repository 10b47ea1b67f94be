"""AReaL's single controller on CPU: one trainer process, AReaL's scheduler starts a worker for each engine."""

import pytest
from areal_here import needs_areal
from runner import train

from areal_gsm8k.runs.files import read_lines
from areal_gsm8k.runs.run import Run

pytestmark = [needs_areal, pytest.mark.run]

STEPS = 3


def test_a_run_leaves_what_any_run_leaves(tmp_path, start_model):
    """Synchronous, so every token is of the version just sent: the gap is small only if the update reached the server.

    Rewards are permuted (the control run), which the trainer has to tell its workers.
    """
    done = train(
        "scheduler.type=local", f"runs_dir={tmp_path}", "trial_name=t", f"actor.path={start_model}",
        f"total_train_steps={STEPS}", "data.dev_rows=16", "rollout.max_head_offpolicyness=0", "reward.shuffled=true",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    run = Run(tmp_path / "tiny-grpo" / "t")
    before, *steps, after = run.read_metrics()
    assert [row["step"] for row in steps] == list(range(1, STEPS + 1))
    permuted, seen = 0, set()
    for row in steps:
        samples, _ = read_lines(run.samples(row["step"]))
        assert len(samples) == 64 and len({sample["group"] for sample in samples}) == 8
        assert seen.isdisjoint(sample["id"] for sample in samples)
        seen |= {sample["id"] for sample in samples}
        assert sum(sample["reward"] for sample in samples) == sum(sample["lenient"] for sample in samples)
        permuted += sum(sample["reward"] != sample["lenient"] for sample in samples)
        assert row["staleness"] == 0 and row["logprob_gap"] < 1e-4 and row["loss"] != 0
    assert permuted > 0
    for step, row in ((0, before), (STEPS, after)):
        graded, _ = read_lines(run.evaluation(step))
        assert len(graded) == 16 and sum(one["lenient"] for one in graded) / 16 == row["dev/accuracy"]
    summary = run.read_summary()
    assert (summary["steps"], summary["n"], summary["accuracy_after"]) == (STEPS, 16, after["dev/accuracy"])
    for checkpoint in ("best", "last"):
        assert (run.checkpoints / checkpoint / "model.safetensors").exists()
