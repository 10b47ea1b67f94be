"""What the preflight says of sampled groups, and a run that it refuses."""

import pytest
from areal_here import needs_areal
from runner import train

from areal_gsm8k.runs.files import read_lines
from areal_gsm8k.runs.run import Run
from areal_gsm8k.watch import preflight


def samples(row: str, *rewards: float, formatted=True, truncated=False) -> list[dict]:
    return [
        {"row": row, "reward": r, "lenient": r > 0, "strict": r > 0, "formatted": formatted, "truncated": truncated}
        for r in rewards
    ]


def refusal(rows):
    return preflight.refusal(preflight.summarise(rows), 48, "hash")


def test_rates_and_signal():
    rows = [*samples("a", 1.0, 0.0), *samples("b", 0.0, 0.0, formatted=False), {"row": "c", "error": "no answer"}]
    found = preflight.summarise(rows)
    assert found == {
        "prompts": 3, "samples": 5, "errors": 1, "signal": pytest.approx(1 / 3),
        "accuracy": 0.25, "accuracy_strict": 0.25, "format_rate": 0.5, "truncated": 0.0,
    }  # fmt: skip
    assert refusal(rows) is None
    assert "right 25% (strict 25%), format 50%, truncated 0%; groups with signal 33%" in preflight.line(found)


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (samples("a", 0.0, 0.0, truncated=True), "length. 100% were cut off at gconfig.max_new_tokens=48"),
        (samples("a", 1.0, 1.0), "every answer is right already"),
        (samples("a", 0.0, 0.0, formatted=False), "format. Only 0% answer in answer_format=hash"),
        (samples("a", 0.0, 0.0), "ability"),
        ([{"row": "a", "error": "refused"}] * 2, "no completion could be had"),
    ],
)
def test_the_cause_is_named(rows, said):
    assert said in refusal(rows) and "preflight=off" in refusal(rows)


@needs_areal
@pytest.mark.run
def test_a_model_without_signal_is_not_trained(tmp_path, untrained_model):
    problems = tmp_path / "problems.jsonl"  # with answers that nobody hits by luck
    problems.write_text("".join(f'{{"question": "{n} + 1?", "answer": "#### {n}918273"}}\n' for n in range(300)))
    done = train(
        f"runs_dir={tmp_path}", "trial_name=t", f"actor.path={untrained_model}", "preflight=on", "data.dev_rows=8",
        f"train_dataset.path={problems}", f"valid_dataset.path={problems}",
    )  # fmt: skip
    assert done.returncode == 2, done.stdout
    assert "Not trained" in done.stdout and "Likely cause: length" in done.stdout and "Traceback" not in done.stdout
    run = Run(tmp_path / "tiny-grpo" / "t")
    assert len(read_lines(run.root / "preflight.jsonl")[0]) == 32 * 8
    assert [row["step"] for row in run.read_metrics()] == [0]
