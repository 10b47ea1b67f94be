"""The command line of train_local_simple.py and train_hf_trainer.py: one set of flags, files and errors for both."""

import importlib
import json
import subprocess
import sys

import pytest
import typer
from typer.testing import CliRunner

from areal_gsm8k.paths import PROJECT


@pytest.fixture(params=["train_local_simple", "train_hf_trainer"])
def script(request, monkeypatch):
    """Runs one of the two programs as on a machine without AReaL and without POSIX."""
    for name in ("areal", "sglang", "fcntl", "resource"):
        monkeypatch.setitem(sys.modules, name, None)
    app = typer.Typer()
    app.command()(importlib.import_module(request.param).main)
    return lambda *arguments: CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_the_scripts_train_and_write_everything(script, untrained_model, tmp_path):
    out = tmp_path / "out"
    arguments = ["--model", untrained_model, "--data", "generated", "--output-dir", out, "--answer-format", "hash"]
    arguments += ["--limit", 20, "--max-steps", 3, "--batch-size", 2, "--gradient-accumulation-steps", 2]
    arguments += ["--device", "cpu"]
    result = script(*arguments)
    assert result.exit_code == 0, result.output
    log = [json.loads(line) for line in (out / "train_log.jsonl").open()]
    summary = json.loads((out / "summary.json").read_text())
    assert [event["step"] for event in log] == [1, 2, 3]
    assert (summary["examples"], summary["format"], summary["stop_reason"]) == (20, "hash", "all steps done")
    assert json.loads((out / "model" / "config.json").read_text())["use_cache"]
    assert sorted(file.name for file in out.iterdir()) == ["model", "settings.json", "summary.json", "train_log.jsonl"]
    for more, message in [
        ([], "is not empty; choose another, add --overwrite, or --resume"),
        (["--resume"], "is finished: the model is"),
        (["--resume", "--overwrite"], "give one of them"),
    ]:
        again = script(*arguments, *more)
        assert again.exit_code == 1 and message in again.output
    assert script(*arguments, "--overwrite").exit_code == 0
    assert len((out / "train_log.jsonl").read_text().splitlines()) == 3


def test_the_scripts_resume_and_keep_one_log(script, untrained_model, tmp_path):
    out = tmp_path / "out"
    arguments = ["--model", untrained_model, "--data", "generated", "--answer-format", "hash", "--device", "cpu"]
    arguments += ["--limit", 20, "--max-steps", 5, "--batch-size", 2, "--checkpoint-steps", 2, "--lr", 3e-3]
    assert script(*arguments, "--output-dir", tmp_path / "whole").exit_code == 0
    assert "no training to resume" in script(*arguments, "--output-dir", out, "--resume").output
    assert script(*arguments, "--output-dir", out, "--max-time", 0).exit_code == 0
    with (out / "train_log.jsonl").open("a") as log:  # as if killed after another step
        log.write('{"step": 2, "loss": 99.0}\n')
    changed = script(*arguments, "--output-dir", out, "--resume", "--batch-size", 4)
    assert "batch_size is 4, but the training in" in changed.output and "begun with 2" in changed.output
    result = script(*arguments, "--output-dir", out, "--resume")
    assert result.exit_code == 0, result.output
    logs = [[json.loads(line) for line in (folder / "train_log.jsonl").open()] for folder in (out, tmp_path / "whole")]
    assert [event["step"] for event in logs[0]] == [1, 2, 3, 4, 5]
    for name in ("loss", "tokens", "lr"):
        assert [event[name] for event in logs[0]] == [event[name] for event in logs[1]]
    weights = [(folder / "model" / "model.safetensors").read_bytes() for folder in (out, tmp_path / "whole")]
    assert weights[0] == weights[1]


def test_the_scripts_name_what_is_wrong(script, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    for arguments, message in [
        (["--model", tmp_path / "none"], "no such folder, and not a hub id"),
        (["--model", tmp_path, "--data", tmp_path / "none"], "no such file or folder"),
        (["--model", tmp_path], "cannot be loaded as a causal language model"),
        (["--model", tmp_path, "--wandb"], "pip install wandb"),
    ]:
        data = [] if "--data" in arguments else ["--data", "generated", "--limit", 5]
        result = script(*arguments, *data, "--output-dir", tmp_path / "out")
        assert result.exit_code != 0
        assert message in str(result.exit_code) + result.output


def test_neither_areal_nor_sglang_is_imported_and_torch_only_when_used():
    code = (
        "import sys; sys.modules['fcntl'] = None; import train_local_simple, train_hf_trainer, areal_gsm8k.sft.tiny; "
        "print({'areal', 'sglang', 'torch'} & set(sys.modules))"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "set()"
