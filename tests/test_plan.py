"""`gsm8k plan` as a user types it; the formulae themselves: docs/memory.md."""

import json
import shlex

from typer.testing import CliRunner

from areal_gsm8k.cli import app
from areal_gsm8k.loop.config import PROJECT


def planned(*arguments: str):
    return CliRunner().invoke(app, ["plan", *arguments], env={"COLUMNS": "120"})


BASE = ("--config", str(PROJECT / "train_grpo.yaml"))


def test_what_does_not_fit_names_the_keys_that_make_it():
    small = planned(*BASE, "actor.path=Qwen/Qwen2.5-1.5B-Instruct", "--gpu", "24")
    assert "too much" in small.output and "max_tokens_per_mb 5120 -> 2560" in small.output
    large = planned(*BASE, "actor.path=Qwen/Qwen2.5-1.5B-Instruct", "--gpu", "80")
    assert large.exit_code == 0 and "too much" not in large.output


def test_without_files_the_overlays_that_train_would_take_are_planned():
    assert "configs/scales/24gb.yaml" in planned("--gpu", "24").output
    assert "configs/scales" not in planned(*BASE, "--gpu", "24").output


def test_fit_writes_an_overlay_that_fits_and_the_command_that_uses_it(tmp_path):
    overlay = tmp_path / "fits.yaml"
    asked = "actor.path=Qwen/Qwen2.5-1.5B-Instruct"
    written = planned(asked, "--gpu", "24", "--fit", "--out", str(overlay)).output
    command = next(line for line in written.splitlines() if line.startswith(f"{overlay} written: "))
    program, verb, *arguments = shlex.split(command.removeprefix(f"{overlay} written: "))
    assert (program, verb) == ("./run", "train") and asked in arguments and str(overlay) in arguments
    again = planned(*arguments, "--gpu", "24")
    assert again.exit_code == 0 and "too much" not in again.output
    assert planned(asked, "--gpu", "24").exit_code == 1


def test_json_holds_the_same():
    found = json.loads(planned("actor.path=Qwen/Qwen2.5-0.5B-Instruct", "--gpu", "24", "--json").output)
    assert found


def test_a_model_that_nobody_knows_is_an_error(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    wrong = planned(f"actor.path={tmp_path}", "--gpu", "24")
    assert wrong.exit_code != 0 and "config.json" in wrong.output and "Traceback" not in wrong.output
