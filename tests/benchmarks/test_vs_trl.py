"""The comparison with TRL (benchmarks/vs_trl.py): that it runs and adds up right. How fast it is no test says."""

import itertools
import json
import subprocess
import sys

import pytest
import runner
from rich.console import Console

from areal_gsm8k.paths import CPU_OVERLAY
from areal_gsm8k.runs.run import Run
from benchmarks import vs_trl
from benchmarks.process_tree import Look, ProcessTree
from benchmarks.trl import measured, report
from benchmarks.trl.sides import Outcome
from benchmarks.trl.task import Task


@pytest.mark.run
def test_two_steps_of_each_side_give_tables_results_and_a_picture(start_model, tmp_path, monkeypatch, capsys):
    began = measured.begin

    def warm(command, out, environment):
        ours = command[0] == sys.executable
        return runner.begin(command, out, cold=False) if ours else began(command, out, environment)

    monkeypatch.setattr(measured, "begin", warm)
    vs_trl.main(["--smoke", "--threads", "1", "--start", str(start_model), "--out", str(tmp_path)])
    assert "ours, one step ahead" in capsys.readouterr().out
    results = json.loads((tmp_path / "smoke" / "results.json").read_text())
    for run in results["runs"]:
        assert [row["step"] for row in run["steps"]] == [1, 2]
        assert set(run["accuracy"]) == {"0", "1", "2"}
        assert run["peak_memory"] > 100e6 and 0 < run["steps"][0]["wall"] < run["steps"][1]["wall"] < run["whole_wall"]
    own = Run(tmp_path / "smoke" / "runs" / "ahead-1").read_metrics()
    assert {str(row["step"]): row["dev/accuracy"] for row in own if "dev/accuracy" in row}.items() <= run[
        "accuracy"
    ].items()
    assert (tmp_path / "smoke" / "accuracy.png").stat().st_size > 10_000
    vs_trl.main(["--smoke", "--start", str(start_model), "--out", str(tmp_path), "--threads", "1", "--show"])
    assert json.loads((tmp_path / "smoke" / "results.json").read_text())["runs"] == results["runs"]


def test_trl_gets_the_numbers_of_our_recipe(tmp_path):
    task = Task(tmp_path, tmp_path, (str(CPU_OVERLAY),), (), steps=240)
    arguments = task.trl_arguments(seed=3, rows=1920, batch=16)
    assert arguments["per_device_train_batch_size"] * arguments["gradient_accumulation_steps"] == 64
    expected = {
        "seed": 3, "max_steps": 240, "num_generations": 8, "max_completion_length": 48, "temperature": 1.0,
        "loss_type": "dapo", "epsilon": 0.2, "learning_rate": 3e-4, "lr_scheduler_type": "cosine_with_min_lr",
        "lr_scheduler_kwargs": {"min_lr_rate": 0.1}, "warmup_steps": 4, "adam_beta1": 0.9, "adam_beta2": 0.99,
        "adam_epsilon": 1e-8, "weight_decay": 0.0, "max_grad_norm": 1.0, "bf16": False,
    }  # fmt: skip
    assert {name: arguments[name] for name in expected} == expected


def test_both_sides_read_the_same_prompts_in_an_order_of_the_seed(tmp_path):
    task = Task(tmp_path, tmp_path, (str(CPU_OVERLAY),), (), steps=1)
    rows = [{"id": str(n), "question": f"What is {n} + 1?", "answer": f"#### {n + 1}"} for n in range(50)]
    orders = []
    for seed in (1, 2):
        task.write_rows(rows, rows[:2], seed)
        ours, theirs = (
            [json.loads(line) for line in (task.rows(seed) / f"{name}.jsonl").read_text().splitlines()]
            for name in ("train", "prompts")
        )
        assert [row["answer"] for row in ours] == [row["reference"] for row in theirs]
        assert all(one["question"] in other["prompt"][0]["content"] for one, other in zip(ours, theirs, strict=True))
        orders.append([row["id"] for row in ours])
    assert orders[0] != orders[1] and sorted(orders[0]) == sorted(orders[1])
    assert "train_dataset.shuffle=false" in task.our_arguments(seed=1)


def test_cpu_seconds_a_step_leave_out_steps_that_keep_weights():
    assert measured.stretches([20, 40, 60], 50) == [(0, 19), (21, 39), (41, 50)]
    assert measured.stretches([20, 40], 40) == [(0, 19), (21, 39), (41, 40)]
    costs = [5.0, 1.0, 1.0, 9.0, 1.0, 1.0, 1.0]  # CPU seconds of steps 1 to 7; the fourth keeps weights
    looks = [
        (step, Look(float(step), cpu, 0, 0.0)) for step, cpu in enumerate(itertools.accumulate(costs, initial=0.0))
    ]
    seen = measured.Measured(7.0, looks[-1][1].cpu, 0, 0.0, looks)
    assert seen.cpu_a_step(measured.stretches([4], 7)) == pytest.approx((5 + 1 + 1 + 1 + 1) / 5)
    assert seen.cpu_a_step([(1, 1)]) is None


def test_a_process_tree_counts_children_that_have_ended():
    work = "sum(i * i for i in range(3_000_000))"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {work!r}]); input()"
    process = subprocess.Popen([sys.executable, "-c", parent], stdin=subprocess.PIPE)
    try:
        tree = ProcessTree(process.pid)
        looks = [tree.look()]
        while len(tree.processes()) < 2:
            looks.append(tree.look())
        while len(tree.processes()) > 1:
            looks.append(tree.look())
        alone = ProcessTree(process.pid).look()
        assert tree.look().cpu > alone.cpu + 0.05
        assert max(look.memory for look in looks) > alone.memory > 1e6
        assert all(one.cpu <= other.cpu for one, other in itertools.pairwise(looks))
    finally:
        process.communicate(b"\n")


def outcome(side: str, seed: int, accuracy: list[float], seconds: float) -> Outcome:
    steps = [{"step": step, "wall": step * seconds, "tokens": 1600, "reward": 0.5} for step in range(1, 41)]
    good = dict(zip((0, 20, 40), accuracy, strict=True))
    return Outcome(side, seed, {}, {}, steps, {}, 0.4, 60.0, 90.0, 700_000_000, 0.01, good)


def test_the_tables_and_the_time_to_an_accuracy(tmp_path, capsys):
    outcomes = [
        outcome("TRL", 1, [0.4, 0.7, 0.85], 0.5),
        outcome("TRL", 2, [0.4, 0.7, 0.75], 0.5),
        outcome("ours", 1, [0.4, 0.8, 0.7], 0.25),
    ]
    assert [one.seconds_to(0.8) for one in outcomes] == [20.0, None, 5.0]
    assert outcomes[0].wall_a_step == pytest.approx(0.5)
    report.show(outcomes, Console(width=150))
    said = capsys.readouterr().out
    assert "0.850 / 0.750" in said and "20 / never" in said and "at most 1%" in said
    report.write(outcomes, tmp_path)
    assert (tmp_path / "accuracy.png").read_bytes().startswith(b"\x89PNG")
    outcomes[0].write(tmp_path / "one.json")
    assert Outcome.read(tmp_path / "one.json") == outcomes[0]
