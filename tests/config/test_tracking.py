"""W&B and TensorBoard through AReaL's logger: what they hold, and what no file of a run may hold."""

import json
import os
import struct
import subprocess
import sys

import psutil
import pytest
from runner import Running, train

from areal_gsm8k.config.compose import make_plan, mask_secrets
from areal_gsm8k.config.schema import ConfigError
from areal_gsm8k.paths import CPU_OVERLAY
from areal_gsm8k.runs.run import Run

PLANTED = "PLANTED_SECRET"
TAIL = "abcdefghijklmnopqrstuvwxyz0123456789_abcdefgh"  # W&B refuses keys shorter than 40
IN_ENVIRONMENT = {"HF_TOKEN": f"hf_{PLANTED}_{TAIL}", "WANDB_API_KEY": f"{PLANTED}_1_{TAIL}"}
ON_COMMAND_LINE = [
    f"stats_logger.wandb.wandb_api_key={PLANTED}_2_{TAIL}",
    f"stats_logger.swanlab={{api_key: {PLANTED}_3_{TAIL}}}",
]


@pytest.fixture(scope="module")
def tracked(tmp_path_factory, start_model):
    """A run of two steps tracked offline and by TensorBoard; and the command lines its processes had meanwhile."""
    pytest.importorskip("areal", reason="areal is not installed")
    folder = tmp_path_factory.mktemp("tracked")
    commands = set()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in IN_ENVIRONMENT.items():
            patch.setenv(name, value)
        running = Running(
            folder, f"runs_dir={folder}", "trial_name=t", f"actor.path={start_model}", "total_train_steps=2",
            "data.dev_rows=16", "stats_logger.wandb.mode=offline", "stats_logger.tensorboard.path=auto",
            *ON_COMMAND_LINE,
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
    return Run(folder / "tiny-grpo" / "t"), running.text(), commands - {typed}


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


@pytest.fixture
def no_wandb_login(tmp_path, monkeypatch):
    """An account that has never logged in to W&B."""
    for name in [name for name in os.environ if name.startswith("WANDB_") or name == "NETRC"]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))


def test_online_without_a_key_does_not_start(tmp_path, no_wandb_login):
    pytest.importorskip("wandb", reason="wandb comes with areal, which is not installed")
    runs = tmp_path / "runs"
    done = train(f"runs_dir={runs}", "stats_logger.wandb.mode=online", timeout=90)
    assert done.returncode == 2, done.stdout
    for said in ("Cannot start", "stats_logger.wandb.mode=online", "No API key configured", "WANDB_API_KEY"):
        assert said in done.stdout
    assert not runs.exists()


def test_online_with_a_key_wandb_cannot_take_does_not_start(no_wandb_login):
    pytest.importorskip("wandb", reason="wandb comes with areal, which is not installed")
    with pytest.raises(ConfigError) as error:
        make_plan([CPU_OVERLAY], ["stats_logger.wandb.mode=online", "stats_logger.wandb.wandb_api_key=short-1"], 0)
    assert "no login to W&B" in str(error.value) and "40+ characters" in str(error.value)
    assert "short-1" not in str(error.value)


def test_the_mode_reaches_the_children_and_only_when_tracking_is_on():
    def environment(mode: str) -> dict:
        return make_plan([CPU_OVERLAY], [f"stats_logger.wandb.mode={mode}"], 0).environment

    assert environment("disabled") == {}
    assert environment("offline") == {"WANDB_MODE": "offline"}
    with pytest.raises(ConfigError, match="online, offline, disabled"):
        environment("of-line")


def test_tensorboard_is_off_unless_asked_for(tmp_path):
    def path(*overrides: str):
        made = make_plan([CPU_OVERLAY], [f"runs_dir={tmp_path}", "trial_name=t", *overrides], 0)
        return made.get("stats_logger.tensorboard.path")

    assert path() is None
    assert path("stats_logger.tensorboard.path=auto") == str(tmp_path / "tiny-grpo" / "t" / "tensorboard")
    assert path("stats_logger.tensorboard.path=elsewhere") == "elsewhere"


def test_a_section_with_a_secret_inside_is_masked():
    typed = ["stats_logger={wandb: {wandb_api_key: x}}", "stats_logger.wandb={mode: offline}", "seed=1"]
    assert mask_secrets(typed) == ["stats_logger=***", *typed[1:]]
