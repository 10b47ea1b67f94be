"""One run as a user starts it, from nothing, by AReaL's old launcher name: two steps with all that is on by default,
tracked offline. What W&B and TensorBoard hold of it, and what no file of a run may hold.
"""

import json
import struct
import subprocess
import sys

import psutil
import pytest
from areal_here import has_shim, needs_areal, needs_shim
from runner import Running

from areal_gsm8k.runs.run import Run

pytestmark = [needs_areal, pytest.mark.run]

PLANTED = "PLANTED_SECRET"
TAIL = "abcdefghijklmnopqrstuvwxyz0123456789_abcdefgh"  # W&B refuses keys shorter than 40
IN_ENVIRONMENT = {"HF_TOKEN": f"hf_{PLANTED}_{TAIL}", "WANDB_API_KEY": f"{PLANTED}_1_{TAIL}"}
ON_COMMAND_LINE = [
    f"stats_logger.wandb.wandb_api_key={PLANTED}_2_{TAIL}",
    f"stats_logger.swanlab={{api_key: {PLANTED}_3_{TAIL}}}",
]


@pytest.fixture(scope="module")
def tracked(tmp_path_factory, start_model):
    """The run, its output, and the command lines that its processes had meanwhile."""
    folder = tmp_path_factory.mktemp("tracked")
    commands = set()
    program = [sys.executable, *(["-m", "areal.launcher.local"] if has_shim() else []), "train_grpo.py"]
    with pytest.MonkeyPatch.context() as patch:
        for name, value in IN_ENVIRONMENT.items():
            patch.setenv(name, value)
        running = Running(
            folder, "--config", "train_grpo.yaml", "--config", "configs/cpu.yaml", f"runs_dir={folder}",
            "experiment_name=forms", "trial_name=t", f"actor.path={start_model}", "total_train_steps=2",
            "data.dev_rows=16", "stats_logger.wandb.mode=offline", "stats_logger.tensorboard.path=auto",
            *ON_COMMAND_LINE, program=program, cold=True,
        )  # fmt: skip

    typed = " ".join(psutil.Process(running.process.pid).cmdline())  # a fork shows it until it becomes its program

    def note_commands() -> bool:
        for process in running.descendants():
            try:
                commands.add(" ".join(process.cmdline()))
            except psutil.Error:  # gone in the meantime
                continue
        return "Curves:" in running.text()

    running.wait_for(note_commands, 300)
    assert running.finish(60) == 0, running.text()
    return Run(folder / "forms" / "t"), running.text(), commands - {typed}


def test_it_leaves_summary_report_and_environment(tracked):
    run, output, _ = tracked
    assert run.read_summary()["steps"] == 2 and run.read_environment()["packages"]
    assert f"Report: {run.report} " in output and run.report.is_file()


def test_the_preflight_is_shown(tracked):
    run, output, _ = tracked
    found = run.read_preflight()
    assert found["samples"] == 32 * 8 and found["signal"] > 0 and "preflight: 256 completions" in output


@needs_shim
def test_the_summary_has_the_old_name(tracked):
    command = tracked[0].read_summary()["command"]
    assert command.startswith("python -m areal.launcher.local train_grpo.py --config train_grpo.yaml")


def numbers(row: dict) -> dict:
    return {name: value for name, value in row.items() if value is not None}


def wandb_records(run: Run) -> str:
    """The offline run as JSON lines, read by W&B's own command."""
    (file,) = run.root.rglob("offline-run-*/*.wandb")
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(file)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def tensorboard_scalars(run: Run) -> dict[int, dict[str, float]]:
    """{row: {name: value}} of the run's event file: TFRecords, each length (8), checksum (4), event, checksum (4)."""
    from tensorboardX.proto.event_pb2 import Event

    (file,) = (run.root / "tensorboard").glob("events.*")
    data, offset, rows = file.read_bytes(), 0, {}
    while offset < len(data):
        (length,) = struct.unpack_from("<Q", data, offset)
        event = Event.FromString(data[offset + 12 : offset + 12 + length])
        for value in event.summary.value:
            rows.setdefault(event.step, {})[value.tag] = value.simple_value
        offset += length + 16
    return rows


def test_wandb_holds_the_numbers_of_metrics_jsonl(tracked):
    run, _, _ = tracked
    records = [json.loads(line) for line in wandb_records(run).splitlines()]
    history = [record["history"]["item"] for record in records if record["type"] == "history"]
    rows = run.read_metrics()
    assert [row["step"] for row in rows] == [0, 1, 2, 2]  # the last is the evaluation after training
    assert len(history) == len(rows)
    for logged, row in zip(history, rows, strict=True):
        assert {name: logged.get(name) for name in numbers(row)} == pytest.approx(numbers(row), rel=1e-6)
    assert [logged["_step"] for logged in history[:3]] == [0, 1, 2]


def test_tensorboard_holds_them_too(tracked):
    run, _, _ = tracked
    scalars, rows = tensorboard_scalars(run), run.read_metrics()
    assert list(scalars) == [0, 1, 2, 3]
    for logged, row in zip(scalars.values(), rows, strict=True):
        assert {name: logged.get(name) for name in numbers(row)} == pytest.approx(numbers(row), rel=1e-5)


def test_no_file_of_a_run_and_no_process_of_ours_shows_a_secret(tracked):
    run, output, commands = tracked
    files = [file for file in run.root.rglob("*") if file.is_file()]
    assert {"config.yaml", "summary.json", "trainer_0.log", "output.log"} <= {file.name for file in files}
    assert [file for file in files if PLANTED.encode() in file.read_bytes()] == []
    assert "***" in json.loads(run.summary.read_text())["command"]
    assert PLANTED not in wandb_records(run) and PLANTED not in output
    assert any("train_grpo.py" in command for command in commands)
    assert [command for command in commands if PLANTED in command] == []
