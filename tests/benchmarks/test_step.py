"""The step benchmark adds up; how long a step takes no test says."""

import json

import pytest

from areal_gsm8k.runs.files import append_lines
from areal_gsm8k.runs.run import Run
from benchmarks import step


@pytest.fixture
def run(tmp_path):
    made = Run(tmp_path / "runs" / "made")
    made.make_folders()
    for number in range(1, 31):
        slow = 1.0 if number <= step.WARM_UP else 0.0
        times = {"time/rollout": 0.2, "time/train": 0.3 + slow, "time/eval": 5.0, "time/step": 5.6 + slow}
        append_lines(made.metrics, [{"step": number} | times])
    append_lines(made.metrics, [{"step": 30, "dev/accuracy": 0.5}])
    return made


def test_phases_and_rest_are_the_step_without_warm_up_and_evaluations(run):
    found = step.phases(run)
    assert found["step"] == pytest.approx(0.6) and found["rest"] == pytest.approx(0.1)
    assert sum(found[phase] for phase in step.PHASES) == pytest.approx(found["step"])


def test_table_picture_and_numbers_of_runs_that_are_there(run, tmp_path, capsys):
    step.main([str(run.root), "--out", str(tmp_path / "out")])
    assert "made" in capsys.readouterr().out
    assert json.loads((tmp_path / "out" / "step.json").read_text())["runs"]["made"]["train"] == pytest.approx(0.3)
    assert (tmp_path / "out" / "step.png").stat().st_size > 5_000


def test_a_run_without_steps_is_named(tmp_path):
    with pytest.raises(SystemExit, match="no steps yet"):
        step.main([str(tmp_path), "--out", str(tmp_path / "out")])
