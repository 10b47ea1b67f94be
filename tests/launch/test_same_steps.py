"""A synchronous run of a fixed seed comes out the same when it is resumed, and on two trainers and two servers."""

import shutil
from pathlib import Path

import pytest
from areal_here import needs_areal
from runner import Running, train
from safetensors.torch import load_file

from areal_gsm8k.runs.files import read_lines
from areal_gsm8k.runs.run import Run

pytestmark = [needs_areal, pytest.mark.run]

SYNCHRONOUS = [
    "rollout.max_head_offpolicyness=0", "total_train_steps=4", "recover.freq_steps=2", "data.dev_rows=16",
    "evaluator.freq_steps=3",
]  # fmt: skip


@pytest.fixture(scope="module")
def whole(tmp_path_factory, start_model):
    """The run that the others are held to: four steps, not interrupted, by one trainer and one server."""
    folder = tmp_path_factory.mktemp("whole")
    done = train(f"runs_dir={folder}", "trial_name=t", f"actor.path={start_model}", *SYNCHRONOUS)
    assert done.returncode == 0, done.stdout
    return Run(folder / "tiny-grpo" / "t")


def farthest(one: Path, other: Path) -> float:
    """The largest difference of two models' weights."""
    one, other = (load_file(folder / "model.safetensors") for folder in (one, other))
    assert one.keys() ^ other.keys() <= {"lm_head.weight"}  # tied to the embedding, and not in every file
    return max((one[name] - other[name]).abs().max().item() for name in one.keys() & other.keys())


def test_resumed_equals_uninterrupted(tmp_path, whole):
    """The same completions, weights within 1e-6. The newest recovery point is half-written."""
    resumed = Run(tmp_path / "resumed")
    shutil.copytree(whole.root, resumed.root)
    (resumed.recovery / "step_00004" / "state.json").unlink()
    for file in ("best", "last"):
        shutil.rmtree(resumed.checkpoints / file)
    again = Running(tmp_path / "o", resume=resumed.root)
    assert again.finish(300) == 0, again.text()
    assert "step_00004" in again.text() and "ignored" in again.text() and "Going on after step 2" in again.text()
    assert [row["step"] for row in resumed.read_metrics()] == [row["step"] for row in whole.read_metrics()]
    for one, other in zip(whole.read_metrics(), resumed.read_metrics(), strict=True):
        for name in {"reward", "lr", "grad_norm", "staleness", "dev/accuracy"} & one.keys():
            assert one[name] == pytest.approx(other[name], rel=1e-5), (one["step"], name)
    for step in (3, 4):
        one, other = (read_lines(run.samples(step))[0] for run in (whole, resumed))
        for name in ("id", "row", "completion", "reward"):
            assert [sample[name] for sample in one] == [sample[name] for sample in other]
    assert farthest(whole.checkpoints / "last", resumed.checkpoints / "last") < 1e-6
    assert resumed.read_summary()["resumed_after"] == [2]


def test_two_trainers_and_two_servers_make_the_same_steps_as_one(tmp_path, start_model, whole):
    """Half the prompts each: the same samples, so the same gradients and weights but for the order of sums.

    And no evaluation, which changes nothing.
    """
    done = train(
        f"runs_dir={tmp_path}", "trial_name=t", f"actor.path={start_model}", "allocation_mode=embedded.d2+fsdp.d2",
        *SYNCHRONOUS, "evaluator.freq_steps=0",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    run = Run(tmp_path / "tiny-grpo" / "t")
    assert not list(run.evaluation(0).parent.glob("*")) and run.read_summary()["steps"] == 4  # 0: it never evaluates
    one, two = ([row for row in run.read_metrics() if "reward" in row] for run in (whole, run))
    assert [row["step"] for row in two] == [1, 2, 3, 4]
    for a, b in zip(one, two, strict=True):
        for name in ("reward", "lr", "staleness"):
            assert a[name] == pytest.approx(b[name]), (a["step"], name)
        assert a["grad_norm"] == pytest.approx(b["grad_norm"], rel=1e-4) and a["grad_norm"] > 0.01
        ours, theirs = ({row["id"]: row for row in read_lines(each.samples(a["step"]))[0]} for each in (whole, run))
        assert ours.keys() == theirs.keys() and len(theirs) == 64
        for name in ("row", "completion", "reward"):
            assert all(ours[number][name] == theirs[number][name] for number in ours)
        assert {row["group"].split("-")[0] for row in theirs.values()} == {"0", "1"}
    last = run.checkpoints / "last"
    assert farthest(whole.checkpoints / "last", last) < 1e-5 and farthest(start_model, last) > 1e-4
    for server in (0, 1):
        assert (run.logs / f"server_{server}.log").stat().st_size > 0
