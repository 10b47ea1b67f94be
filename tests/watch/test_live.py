"""`gsm8k watch`: a state said when it changes, several runs in a table, and how a run is seen to have ended."""

import io
import os
import subprocess
import sys
import threading
import time

import pytest
import yaml
from made_runs import config, line, noisy, steps
from rich.console import Console
from typer.testing import CliRunner

from areal_gsm8k.cli import app
from areal_gsm8k.runs.files import append_lines, write_atomically
from areal_gsm8k.runs.run import COLLAPSED, FINISHED, STOPPED, Run
from areal_gsm8k.watch import live
from areal_gsm8k.watch.live import LiveView
from areal_gsm8k.watch.overview import Overview
from areal_gsm8k.watch.progress import RunProgress

LEARNING = steps(noisy(line(0.2, 0.7, 60)), dev={0: 0.4, 20: 0.6})
COLLAPSING = steps(noisy([0.4] * 20) + [0.0] * 40)


def started(folder, **changes) -> Run:
    """A run that this process holds, with nothing done yet."""
    run = Run.create(folder)
    write_atomically(run.config, yaml.safe_dump(config(**changes)))
    run.add_launch("./run train", step=0, steps=60)
    run.set_status("rollout", step=1)
    return run


def plain() -> Console:
    return Console(file=io.StringIO(), width=300)


def test_a_state_is_said_when_it_changes_with_its_first_cause(tmp_path):
    run, console = started(tmp_path / "r"), plain()
    with LiveView(run, console) as view:
        for row in COLLAPSING:
            append_lines(run.metrics, [row])
            view.update()
    said = console.file.getvalue().splitlines()
    states = [
        at for at, text in enumerate(said) if text.startswith(("too early:", "on track:", "flat:", "collapsing:"))
    ]
    assert [said[at].split(":")[0] for at in states] == ["collapsing"]
    assert "fell from its best" in said[states[0]] and "likely: learning rate too high" in said[states[0] + 1]
    assert sum(text.startswith("step ") for text in said) == len(COLLAPSING)


def test_a_terminal_shows_state_and_causes(tmp_path):
    run = started(tmp_path / "r")
    append_lines(run.metrics, COLLAPSING)
    console = Console(file=io.StringIO(), width=200, force_terminal=True)
    with LiveView(run, console) as view:
        view.update()
    shown = console.file.getvalue()
    assert "collapsing: reward 0.00" in shown and "likely: learning rate too high" in shown


def test_who_comes_late_hears_where_the_run_stands(tmp_path):
    run, console = started(tmp_path / "r"), plain()
    append_lines(run.metrics, LEARNING)
    with LiveView(run, console) as view:
        view.say_where_it_stands()
        view.update()
    step, state = console.file.getvalue().splitlines()
    assert step.startswith("step 60/60") and state.startswith("on track: reward")


def test_several_runs_a_line_a_step_without_a_terminal(tmp_path):
    console = plain()
    good, bad = started(tmp_path / "e" / "good"), started(tmp_path / "e" / "bad")
    append_lines(good.metrics, LEARNING)
    append_lines(bad.metrics, COLLAPSING[:-1])
    with Overview([good, bad], console) as view:
        view.update()
        append_lines(bad.metrics, COLLAPSING[-1:])
        view.update()
        bad.set_status(COLLAPSED, step=60)
        view.update()
        assert not view.ended()
        good.set_status(FINISHED)
        assert view.ended()
    lines = console.file.getvalue().splitlines()
    assert [text.split()[0] for text in lines] == ["good", "bad", "bad", "bad"]
    assert "step 60/60" in lines[0] and "dev 60.0%" in lines[0] and "state on track" in lines[0]
    assert "step 59/60" in lines[1] and "state collapsing" in lines[1] and "left 0:02  phase rollout" in lines[1]
    assert lines[3].endswith("left -  phase collapsed")


def test_several_runs_in_a_terminal_are_one_table(tmp_path):
    console = Console(file=io.StringIO(), width=200, force_terminal=True)
    runs = [started(tmp_path / name) for name in ("a", "b")]
    append_lines(runs[0].metrics, LEARNING)
    with Overview(runs, console) as view:
        view.update()
    shown = console.file.getvalue()
    assert "no signal" in shown and "on track" in shown and "too early" in shown and "60/60" in shown


def test_how_a_run_ended(tmp_path):
    run = Run(tmp_path / "r")
    run.make_folders()
    assert RunProgress(run).ended() is None  # not started yet
    run.claim()
    run.set_status("training", step=2)
    assert RunProgress(run).ended() is None
    for phase in (FINISHED, STOPPED, COLLAPSED):
        run.set_status(phase)
        assert RunProgress(run).ended() == phase


def test_a_run_whose_process_is_gone_has_ended(tmp_path):
    run = Run(tmp_path / "r")
    run.make_folders()
    code = (
        f"from areal_gsm8k.runs.run import Run; run = Run({str(run.root)!r}); run.claim(); run.set_status('training')"
    )
    dead = subprocess.Popen([sys.executable, "-c", code])
    dead.wait()
    assert RunProgress(run).ended() == f"ended while training: process {dead.pid} is gone"
    run.lock.write_text(str(os.getpid()))  # a number given anew: this process is older than the lock
    assert run.launcher().alive
    os.utime(run.lock, (1e9, 1e9))  # and this one younger
    assert not run.launcher().alive


def watch(*arguments):
    return CliRunner().invoke(app, ["watch", *map(str, arguments)])


def test_the_command_ends_with_the_runs(tmp_path):
    runs = [started(tmp_path / name) for name in ("a", "b")]
    append_lines(runs[0].metrics, LEARNING)
    for run in runs:
        run.set_status(FINISHED)
    one = watch(runs[0].root)
    assert one.exit_code == 0 and "step 60/60" in one.output and one.output.endswith("a: finished\n")
    both = watch(*(run.root for run in runs))
    assert both.exit_code == 0 and [text.split()[0] for text in both.output.splitlines()] == ["a", "b"]


def test_the_command_waits_for_a_run_that_has_not_started(tmp_path):
    run = Run(tmp_path / "r")
    run.make_folders()

    def go_on():
        run.claim()
        run.add_launch("./run train", step=0, steps=1)
        append_lines(run.metrics, LEARNING[:2])
        run.set_status(FINISHED)

    later = threading.Timer(1.0, go_on)
    later.start()
    seen = watch(run.root)
    later.join()
    assert "step 1/1" in seen.output and seen.output.endswith("r: finished\n")


@pytest.mark.parametrize("arguments", [["nowhere"], ["there", "nowhere"], ["there", "there"]])
def test_a_run_that_is_not_there_or_named_twice(tmp_path, arguments, monkeypatch):
    (tmp_path / "there").mkdir()
    monkeypatch.chdir(tmp_path)
    refused = watch(*arguments)
    assert refused.exit_code == 1
    assert "nowhere: no such folder" in refused.output or "named twice" in refused.output


def test_ctrl_c_ends_the_view_and_leaves_the_run_alone(tmp_path, monkeypatch):
    run = started(tmp_path / "r")
    append_lines(run.metrics, LEARNING)
    before = {file: file.stat().st_mtime_ns for file in run.root.rglob("*")}

    def interrupted(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(time, "sleep", interrupted)
    seen = watch(run.root)
    assert seen.exit_code == 0 and "the runs go on" in seen.output
    assert before == {file: file.stat().st_mtime_ns for file in run.root.rglob("*")}


def test_within_a_long_phase_a_line_every_half_minute(tmp_path, monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(live.time, "monotonic", lambda: now[0])
    run, console = started(tmp_path / "r"), plain()
    with LiveView(run, console) as view:
        for second in range(0, 101, 5):
            now[0] = 1000.0 + second
            run.set_status("rollout", step=1, done=second // 10, of=16, tokens_per_second=62)
            view.update()
        run.set_status("training", step=1, done=1, of=3)
        now[0] += 5
        view.update()
        now[0] += 31
        view.update()
    said = [text.split(" ", 1)[1] for text in console.file.getvalue().splitlines() if " of " in text]
    assert said == [
        "step 1: rollout, 3 of 16 samples, 62 tokens/s",
        "step 1: rollout, 6 of 16 samples, 62 tokens/s",
        "step 1: rollout, 9 of 16 samples, 62 tokens/s",
        "step 1: training, 1 of 3 microbatches",
    ]


def test_a_terminal_shows_how_far_the_phase_has_come_and_parts_that_add_up(tmp_path):
    run = started(tmp_path / "r")
    rows = [
        row | {"time/step": 10.0, "time/rollout": 4.0, "time/train": 3.0, "time/reference": 1.5} for row in LEARNING[:3]
    ]
    append_lines(run.metrics, rows)
    run.set_status("evaluating", step=2, done=7, of=400)
    console = Console(file=io.StringIO(), width=200, force_terminal=True)
    with LiveView(run, console) as view:
        view.update()
    shown = console.file.getvalue()
    assert "evaluating, 7 of 400 answers" in shown
    assert "rollout 4.00  reference 1.50  train 3.00  rest 1.50" in shown
