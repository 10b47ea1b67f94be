import io

import pytest
from made_runs import HEALTHY
from rich.console import Console

from areal_gsm8k.report import plots, summary
from areal_gsm8k.runs.files import append_lines, to_lines, write_atomically
from areal_gsm8k.runs.run import Run
from areal_gsm8k.watch.live import LiveView

FACTS = {
    "split": "dev",
    "decoding": "greedy",
    "format": "hash",
    "model": "m",
    "data": "d",
    "wall_seconds": 1.0,
    "command": "./run train",
}


def dev_rows(right: list[bool]) -> list[dict]:
    return [
        {"row": f"r{i}", "lenient": ok, "strict": ok and i > 0, "formatted": True, "truncated": i == 1}
        for i, ok in enumerate(right)
    ]


def step_row(step: int, **more) -> dict:
    return HEALTHY | {"step": step, "reward": 0.25 * step, "groups_without_signal": 0.5, "time/rollout": 0.5} | more


@pytest.fixture
def run(tmp_path):
    run = Run.create(tmp_path / "e" / "t")
    run.add_launch("./run train", step=0, steps=10)
    write_atomically(run.evaluation(0), to_lines(dev_rows([True, False, False, False])))
    write_atomically(run.evaluation(3), to_lines(dev_rows([False, True, True, True])))
    append_lines(run.metrics, [{"step": 0, "dev/accuracy": 0.25, "dev/accuracy_strict": 0.0, "dev/n": 4}])
    append_lines(run.metrics, [step_row(1), step_row(2)])
    append_lines(run.metrics, [step_row(3, **{"dev/accuracy": 0.75, "dev/accuracy_strict": 0.75, "dev/n": 4})])
    return run


def test_summary_compares_the_same_items_and_counts_gained_and_lost(run):
    made = summary.build(run, FACTS)
    assert (made["accuracy_before"], made["accuracy_after"], made["n"], made["steps"]) == (0.25, 0.75, 4, 3)
    assert (made["accuracy_strict_before"], made["accuracy_strict_after"]) == (0.0, 0.75)
    assert (made["gained"], made["lost"]) == (3, 1)
    assert made["interval_after"][0] < 0.75 < made["interval_after"][1]
    assert made["command"] == "./run train" and made["grader"]
    summary.write(run, made)
    assert run.read_summary()["gained"] == 3


def test_summary_refuses_different_items_and_a_missing_evaluation(run):
    write_atomically(run.evaluation(4), to_lines(dev_rows([True, True])))
    with pytest.raises(ValueError, match="different items"):
        summary.build(run, FACTS)
    run.evaluation(4).unlink()
    run.evaluation(3).unlink()
    with pytest.raises(ValueError, match="1 evaluations"):
        summary.build(run, FACTS)


def test_the_table_shows_rates_intervals_and_change(run):
    console = Console(file=io.StringIO(), width=120)
    console.print(summary.table(summary.build(run, FACTS)))
    shown = console.file.getvalue()
    for said in ("25.0% [", "75.0% [", "+50.0 points", "3 / 1", "4 dev problems, greedy"):
        assert said in shown


def test_plain_lines_where_there_is_no_terminal(run):
    console = Console(file=io.StringIO(), width=200)
    rows = run.read_metrics()
    run.metrics.unlink()
    with LiveView(run, console) as view:
        append_lines(run.metrics, rows)
        view.update()
        append_lines(run.metrics, [step_row(4, staleness=1.5)])
        view.update()
        view.update()
    lines = console.file.getvalue().splitlines()
    assert lines[0].startswith("step 0/10  dev accuracy 25.0% of 4")
    assert [line.split()[1] for line in lines] == ["0/10", "1/10", "2/10", "3/10", "4/10"]  # each row once
    assert "dev 75.0%" in lines[3] and "no signal 50%" in lines[3] and "staleness 1.5" in lines[4]
    assert lines[4].endswith("0:12 left")  # six steps of two seconds


def test_a_resumed_run_does_not_print_its_old_rows_again(run):
    console = Console(file=io.StringIO(), width=200)
    with LiveView(run, console) as view:
        run.set_status("loading the model")
        view.update()
        append_lines(run.metrics, [step_row(4)])
        view.update()
    phase, line = console.file.getvalue().splitlines()
    assert phase.endswith("loading the model") and line.startswith("step 4/10") and line.endswith("0:12 left")


def test_a_restart_is_said_once_and_counted(run):
    console = Console(file=io.StringIO(), width=200)
    row = {"server": 1, "ended": "was ended by SIGKILL", "restart": 1, "bound": 3, "weights": "w/v7", "log": "s_1.log"}
    with LiveView(run, console) as view:
        append_lines(run.restarts, [row])
        view.update()
        view.update()
    said = "rollout server 1 was ended by SIGKILL; restart 1 of 3 with w/v7. Its log: s_1.log"
    assert console.file.getvalue().count(said) == 1
    assert summary.build(run, FACTS)["server_restarts"] == 1


def test_the_live_view_in_a_terminal(run):
    console = Console(file=io.StringIO(), width=120, force_terminal=True)
    run.set_status("rollout", step=4)
    with LiveView(run, console) as view:
        view.update()
    shown = console.file.getvalue()
    for said in ("rollout", "3/10", "75.0% @3", "groups without signal", "0:14"):
        assert said in shown


def test_curves_are_drawn_and_an_empty_run_is_refused(run, tmp_path):
    picture = plots.draw(run)
    assert picture.read_bytes().startswith(b"\x89PNG") and picture.stat().st_size > 20_000
    assert [file.name for file in run.plots.iterdir()] == ["curves.png"]
    with pytest.raises(ValueError, match="no steps"):
        plots.draw(Run.create(tmp_path / "other"))
