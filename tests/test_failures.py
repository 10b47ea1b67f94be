"""What a user meets when something is wrong: a clear message soon, no process left, everything written readable."""

import os
import signal
import time

import pytest
from runner import Running, alive, train

from areal_gsm8k.runs import Run, read_lines

pytest.importorskip("areal", reason="areal is not installed")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["actor.path=./no/such/model"], "actor.path='./no/such/model': no config.json there"),
        (["train_dataset.path=./missing.jsonl"], "missing.jsonl"),
        (["gconfig.n_sampels=4"], "Did you mean 'gconfig.n_samples'?"),
        (["data.train_rows=4"], "fewer than one batch"),
        (["actor.path=no-org/no-such-model"], "actor.path='no-org/no-such-model'"),
    ],
)
def test_a_mistake_stops_before_anything_starts(tmp_path, arguments, said):
    done = train(f"runs_dir={tmp_path}", *arguments, timeout=30)
    assert done.returncode == 2
    assert said in done.stdout and "Traceback" not in done.stdout
    assert not list(tmp_path.rglob("config.yaml"))


def test_a_malformed_data_file_is_named_with_its_line(tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text('{"question": "1+1?", "answer": "#### 2"}\n{"question": oops}\n')
    done = train(f"runs_dir={tmp_path}", f"train_dataset.path={file}", f"valid_dataset.path={file}", timeout=30)
    assert done.returncode == 2 and str(file) in done.stdout and "2" in done.stdout.split(str(file))[1][:20]
    rows = (f'{{"question": "1+{i}?", "answer": "#### apple"}}\n' for i in range(200))
    file.write_text("".join(rows))
    done = train(f"runs_dir={tmp_path}", f"train_dataset.path={file}", f"valid_dataset.path={file}", timeout=30)
    assert done.returncode == 2 and "#### apple" in done.stdout and "Traceback" not in done.stdout
    file.write_text("")
    done = train(f"runs_dir={tmp_path}", f"train_dataset.path={file}", f"valid_dataset.path={file}", timeout=30)
    assert done.returncode == 2 and str(file) in done.stdout and "Traceback" not in done.stdout


def test_a_used_run_directory_is_refused(tmp_path, start_model):
    run = Run.create(tmp_path / "tiny-grpo" / "t")
    done = train(f"runs_dir={tmp_path}", "trial_name=t", f"actor.path={start_model}", timeout=30)
    assert done.returncode == 2 and "already holds a run" in done.stdout and str(run.root) in done.stdout


def test_a_dry_run_writes_the_configuration_and_starts_nothing(tmp_path):
    done = train("--dry-run", f"runs_dir={tmp_path}", "trial_name=t", timeout=30)
    assert done.returncode == 0
    assert [file.name for file in tmp_path.rglob("*") if file.is_file()] == ["t.dry-run.yaml"]


@pytest.fixture
def training(tmp_path, start_model):
    """A run somewhere in its first steps."""
    running = Running(
        tmp_path / "o", f"runs_dir={tmp_path}", "trial_name=t", f"actor.path={start_model}", "data.dev_rows=32"
    )
    run = Run(tmp_path / "tiny-grpo" / "t")
    running.wait_for(lambda: len(run.read_metrics()) >= 3)
    yield running, run
    running.process.kill()


def readable(run: Run) -> None:
    rows = run.read_metrics()
    assert rows[0]["step"] == 0
    for row in rows[1:]:
        assert len(read_lines(run.samples(row["step"]))[0]) == 64
    assert run.status()


def test_a_killed_server_ends_the_run_within_seconds(training):
    running, run = training
    children = running.descendants()
    (server,) = [child for child in children if "areal_gsm8k.serve" in child.cmdline()]
    began = time.monotonic()
    server.kill()
    assert running.finish(10) == 1
    assert time.monotonic() - began < 10
    assert "SIGKILL" in running.text() and "server_0.log" in running.text()
    assert not alive(children)
    readable(run)


def test_a_killed_trainer_ends_the_run_within_seconds(training):
    running, run = training
    children = running.descendants()
    (trainer,) = [child for child in children if "areal_gsm8k.loop.prewarm" in child.cmdline()]
    trainer.kill()
    assert running.finish(10) == 1
    assert "trainer was ended by SIGKILL" in running.text() and "trainer_0.log" in running.text()
    assert not alive(children)
    readable(run)


def test_ctrl_c_in_training(training):
    running, run = training
    children = running.descendants()
    running.process.send_signal(signal.SIGINT)
    assert running.finish(10) == 130
    assert "Stopped by Ctrl-C" in running.text() and str(run.root) in running.text()
    assert not alive(children)
    readable(run)


def test_a_killed_launcher_takes_everything_along(training):
    running, run = training
    children = running.descendants()
    running.process.kill()
    running.process.wait()
    assert not alive(children)
    readable(run)


@pytest.mark.parametrize("phase", ["making the start model", "starting the rollout servers", "loading the model"])
def test_ctrl_c_before_training(tmp_path, start_model, phase):
    model = "tiny" if phase == "making the start model" else start_model
    running = Running(tmp_path / "o", f"runs_dir={tmp_path}", "trial_name=t", f"actor.path={model}")
    run = Run(tmp_path / "tiny-grpo" / "t")
    running.wait_for(lambda: run.status().get("phase") == phase)
    children = running.descendants()
    os.kill(running.process.pid, signal.SIGINT)
    assert running.finish(10) == 130
    assert "Stopped by Ctrl-C" in running.text() and "Traceback" not in running.text()
    assert not alive(children)


def test_a_server_that_hangs_is_reported_with_phase_and_stacks(tmp_path, start_model):
    running = Running(
        tmp_path / "o", f"runs_dir={tmp_path}", "trial_name=t", f"actor.path={start_model}", "data.dev_rows=32",
        "hang_seconds=20",
    )  # fmt: skip
    run = Run(tmp_path / "tiny-grpo" / "t")
    running.wait_for(lambda: len(run.read_metrics()) >= 3)
    children = running.descendants()
    (server,) = [child for child in children if "areal_gsm8k.serve" in child.cmdline()]
    server.suspend()
    assert running.finish(60) == 1
    text = running.text()
    assert "nothing has moved for" in text and "hang_seconds=20" in text and "of step" in text
    assert "Thread 0x" in text and 'File "' in text  # the trainer's stacks; a stopped process cannot answer
    assert not alive(children)
    readable(run)
