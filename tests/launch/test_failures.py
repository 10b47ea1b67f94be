"""What a user meets when something is wrong: a clear message soon, no process left, everything written readable."""

import os
import signal
import time
from collections import Counter

import psutil
import pytest
from areal_here import needs_areal
from runner import Running, alive, train

from areal_gsm8k.runs.files import read_lines
from areal_gsm8k.runs.run import Run

pytestmark = needs_areal


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
    done = train(f"runs_dir={tmp_path}", *arguments, timeout=30, cold=True)
    assert done.returncode == 2
    assert said in done.stdout and "Traceback" not in done.stdout
    assert not list(tmp_path.rglob("config.yaml"))


def test_a_malformed_data_file_is_named_with_its_line(tmp_path):
    file = tmp_path / "rows.jsonl"
    settings = [f"runs_dir={tmp_path}", f"train_dataset.path={file}", f"valid_dataset.path={file}"]
    file.write_text('{"question": "1+1?", "answer": "#### 2"}\n{"question": oops}\n')
    done = train(*settings, timeout=30, cold=True)
    assert done.returncode == 2 and str(file) in done.stdout and "2" in done.stdout.split(str(file))[1][:20]
    rows = (f'{{"question": "1+{i}?", "answer": "#### apple"}}\n' for i in range(200))
    file.write_text("".join(rows))
    done = train(*settings, timeout=30, cold=True)
    assert done.returncode == 2 and "#### apple" in done.stdout and "Traceback" not in done.stdout
    file.write_text("")
    done = train(*settings, timeout=30, cold=True)
    assert done.returncode == 2 and str(file) in done.stdout and "Traceback" not in done.stdout


def test_a_used_run_directory_is_refused(tmp_path, start_model):
    run = Run(tmp_path / "tiny-grpo" / "t")
    run.make_folders()
    done = train(f"runs_dir={tmp_path}", "trial_name=t", f"actor.path={start_model}", timeout=30, cold=True)
    assert done.returncode == 2 and "already holds a run" in done.stdout
    assert f"./run train --resume {run.root}" in done.stdout


@pytest.mark.run
def test_a_run_that_gets_no_samples_ends_with_the_reason_and_keeps_what_they_met(tmp_path, start_model):
    """A reward that always raises: four dev samples fail, then training samples, until there are `max_failures`."""
    done = train(
        f"runs_dir={tmp_path}", "trial_name=t", f"actor.path={start_model}", "data.dev_rows=4", "max_failures=20",
        "reward.custom=json:loads",
    )  # fmt: skip
    run = Run(tmp_path / "tiny-grpo" / "t")
    assert done.returncode == 1 and "Traceback" not in done.stdout
    said = " ".join(done.stdout.split())
    assert "The run failed: 20 samples failed (max_failures)" in said and "TypeError" in said
    rejected = read_lines(run.rejected)[0]
    assert len(rejected) >= 16 and len({row["id"] for row in rejected}) == len(rejected)
    assert all("TypeError" in row["rejected"] and row["step"] == 1 for row in rejected)


def test_a_dry_run_writes_the_configuration_and_starts_nothing(tmp_path):
    done = train("--dry-run", f"runs_dir={tmp_path}", "trial_name=t", timeout=30, cold=True)
    assert done.returncode == 0
    assert [file.name for file in tmp_path.rglob("*") if file.is_file()] == ["t.dry-run.yaml"]


@pytest.fixture
def training(tmp_path, start_model, request):
    """A run somewhere in its first steps; parameters are more settings."""
    running = Running(
        tmp_path / "o", f"runs_dir={tmp_path}", "trial_name=t", f"actor.path={start_model}", "data.dev_rows=32",
        *getattr(request, "param", ()),
    )  # fmt: skip
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


def the_server(running: Running) -> psutil.Process:
    (server,) = [child for child in running.descendants() if "areal_gsm8k.serve" in child.cmdline()]
    return server


@pytest.mark.run
# Synchronous, so that every token is of the current version and its logprob can be compared with the trainer's.
@pytest.mark.parametrize("training", [["embedded.restarts=1", "rollout.max_head_offpolicyness=0"]], indirect=True)
def test_a_killed_server_is_restarted_with_the_current_weights_and_at_the_bound_ends_the_run(training):
    running, run = training
    server = the_server(running)
    running.wait_for(lambda: run.status()["phase"] == "rollout")  # its requests are under way
    server.kill()
    last = len(run.read_metrics())
    running.wait_for(lambda: len(run.read_metrics()) >= last + 3)
    assert "SIGKILL; restart 1 of 1 with" in running.text()
    (restart,) = read_lines(run.restarts)[0]
    assert "weight_update_v" in restart["weights"] and restart["log"].endswith("server_0.log")
    after = run.read_metrics()[last:]
    assert all(row["logprob_gap"] < 1e-4 and row["staleness_max"] == 0 for row in after)
    assert all(row["reward_errors"] == row["rejected_samples"] == 0 for row in after)

    children = running.descendants()
    began = time.monotonic()
    the_server(running).kill()
    assert running.finish(10) == 1
    assert time.monotonic() - began < 10
    assert "rollout server was ended by SIGKILL" in running.text() and "server_0.log" in running.text()
    assert not alive(children)
    readable(run)


@pytest.mark.run
def test_a_killed_trainer_ends_the_run_within_seconds(training):
    running, run = training
    children = running.descendants()
    (trainer,) = [child for child in children if "areal_gsm8k.launch.prewarm" in child.cmdline()]
    trainer.kill()
    assert running.finish(10) == 1
    assert "trainer was ended by SIGKILL" in running.text() and "trainer_0.log" in running.text()
    assert not alive(children)
    readable(run)


def complete(run: Run, steps: int) -> None:
    """Steps and samples without gaps or duplicates."""
    assert [row["step"] for row in run.read_metrics() if "reward" in row] == list(range(1, steps + 1))
    positions = [row["position"] for step in range(1, steps + 1) for row in read_lines(run.samples(step))[0]]
    assert len(positions) == 64 * steps and set(Counter(positions).values()) == {8}


@pytest.mark.run
def test_stopped_stopped_at_once_killed_and_resumed(training):
    running, run = training
    children = running.descendants()
    running.process.send_signal(signal.SIGINT)  # once: the step is finished and saved
    assert running.finish(30) == 130
    saved = run.status()["step"]
    assert "finishing this step" in running.text() and f"Stopped by Ctrl-C after step {saved}, saved" in running.text()
    assert f"./run train --resume {run.root}" in running.text() and (run.checkpoints / "last").exists()
    assert not alive(children)
    complete(run, saved)

    running = Running(run.root.parent / "o2", resume=run.root)
    running.wait_for(lambda: len(run.read_metrics()) > saved + 2)
    children = running.descendants()
    assert f"Going on after step {saved}" in running.text() and "done again" not in running.text()
    running.process.send_signal(signal.SIGINT)
    running.wait_for(run.stop_request.exists)
    running.process.send_signal(signal.SIGINT)  # twice: now
    assert running.finish(10) == 130 and "Stopped by Ctrl-C. Everything" in running.text()
    assert not alive(children)
    readable(run)

    running = Running(run.root.parent / "o3", resume=run.root)
    running.wait_for(lambda: run.status().get("phase") == "training")
    children = running.descendants()
    running.process.kill()  # SIGKILL of the launcher takes everything along
    running.process.wait()
    assert not alive(children)
    readable(run)

    running = Running(run.root.parent / "o4", f"total_train_steps={saved + 4}", resume=run.root)
    assert running.finish(120) == 0, running.text()
    complete(run, saved + 4)


@pytest.mark.run
@pytest.mark.parametrize("phase", ["making the start model", "loading the model"])
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


@pytest.mark.run
def test_a_server_that_hangs_is_reported_with_phase_and_stacks(tmp_path, start_model):
    running = Running(
        tmp_path / "o", f"runs_dir={tmp_path}", "trial_name=t", f"actor.path={start_model}", "data.dev_rows=32",
        "hang_seconds=30",
    )  # fmt: skip
    run = Run(tmp_path / "tiny-grpo" / "t")
    running.wait_for(lambda: len(run.read_metrics()) >= 3)
    children = running.descendants()
    the_server(running).suspend()
    assert running.finish(60) == 1
    text = running.text()
    assert "nothing has moved for" in text and "hang_seconds=30" in text and "of step" in text
    assert "Thread 0x" in text and 'File "' in text  # the trainer's stacks; a stopped process cannot answer
    assert not alive(children)
    readable(run)
