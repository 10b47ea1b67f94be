"""The stages of `gsm8k sidebyside`, without running what they start."""

from pathlib import Path

import pytest

from areal_gsm8k.data.problems import load_problems
from areal_gsm8k.launch import sidebyside
from areal_gsm8k.paths import CPU_OVERLAY
from areal_gsm8k.runs.files import append_lines, write_atomically
from areal_gsm8k.runs.run import Run

STEP = {"reward": 0.5, "time/step": 10.0, "time/eval": 3.0, "time/save": None, "time/recovery": 1.0}


@pytest.fixture
def stages(monkeypatch, tmp_path):
    """Collects (name, command); every stage leaves the result that the next one looks for."""
    done = []

    def stage(name, result, command):
        done.append((name, command))
        if name == "GRPO":
            run = Run(tmp_path / "grpo" / "tiny-grpo" / "grpo")
            append_lines(run.metrics, [{"step": 0}, *({"step": step} | STEP for step in (1, 2, 3))])
        if name.startswith("evaluation"):
            write_atomically(Path(command[command.index("--output-dir") + 1]) / "model" / "evaluation.json", "{}")

    monkeypatch.setattr(sidebyside, "_stage", stage)
    return done


def test_all_from_one_start_on_the_same_rows_for_the_same_time(stages, tmp_path):
    sidebyside.run([CPU_OVERLAY], ["seed=3", "data.dev_rows=50"], tmp_path, sft_lr=1e-3)
    commands = dict(stages)
    assert commands["GRPO"][-1] == "total_train_steps=160"
    baselines = [command for name, command in stages if name.startswith("sft-")]
    evaluations = [command for name, command in stages if name.startswith("evaluation")]
    assert len(baselines) == 3 and len(evaluations) == 5
    start = evaluations[0][4]  # the first evaluated is the start itself
    for command in baselines:
        assert command[command.index("--model") + 1] == start
        assert command[command.index("--max-time") + 1] == "18"  # three steps of 10 - 3 - 1 seconds
    rest = {tuple(command[5:-1]) for command in evaluations}  # all but the model and the folder
    assert len(rest) == 1 and {"--n", "50", "--seed", "3", "generated", "hash", "48"} <= set(*rest)
    assert [part.split("=")[0] for part in commands["the table"][4:-2]] == [
        "start", "sft-simple-noisy", "sft-hf-noisy", "sft-simple-right", "grpo",
    ]  # fmt: skip


def test_the_controls_are_the_corpus_of_the_start_and_its_right_solutions(stages, tmp_path):
    sidebyside.run([CPU_OVERLAY], [], tmp_path, sft_lr=1e-3)
    noisy, right = (load_problems(str(tmp_path / f"{name}.jsonl"), "train") for name in ("noisy", "right"))
    assert 0.3 < len(right) / len(noisy) < 0.6
    assert set(right["answer"]) <= set(noisy["answer"])


def test_a_stage_that_is_done_is_not_done_again(tmp_path, capsys):
    (tmp_path / "done").touch()
    sidebyside._stage("x", tmp_path / "done", ["false"])  # noqa: SLF001 - a stage by itself
    assert "there already" in capsys.readouterr().out
    with pytest.raises(sidebyside.StageFailed, match="x ended with code 1"):
        sidebyside._stage("x", tmp_path / "missing", ["false"])  # noqa: SLF001 - a stage by itself
