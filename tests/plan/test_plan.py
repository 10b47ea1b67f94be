"""`gsm8k plan` as a user types it; the formulae themselves: docs/memory.md."""

import json
import shlex

from typer.testing import CliRunner

from areal_gsm8k.cli import app
from areal_gsm8k.machine import cards
from areal_gsm8k.machine.facts import Machine
from areal_gsm8k.paths import PROJECT
from areal_gsm8k.plan.memory import CardMemory

GIB = 1 << 30


def planned(*arguments: str):
    return CliRunner().invoke(app, ["plan", *arguments], env={"COLUMNS": "120"})


BASE = ("--config", str(PROJECT / "train_grpo.yaml"))


def test_what_does_not_fit_names_the_keys_that_make_it():
    small = planned(*BASE, "actor.path=Qwen/Qwen2.5-1.5B-Instruct", "--gpu", "24")
    assert "too much" in small.output and "mem_fraction_static 0.5 -> 0.31" in small.output
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
    asked = ("actor.path=Qwen/Qwen2.5-0.5B-Instruct", "--gpu", "24")
    found, shown = json.loads(planned(*asked, "--json").stdout), planned(*asked).stdout
    assert found["fits"] and found["model"]["parameters"] == 494_032_768
    (card,) = found["cards"]
    assert card["total"] == sum(sum(process["parts"].values()) for process in card["processes"])
    assert f"{card['total'] / GIB:.1f} of {card['capacity'] / GIB:.1f} GiB: fits" in shown
    assert not json.loads(planned(*BASE, "--gpu", "12", "--json").stdout)["fits"]


def test_a_model_that_nobody_knows_is_an_error(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    wrong = planned(f"actor.path={tmp_path}", "--gpu", "24")
    assert wrong.exit_code == 2 and "config.json" in wrong.stderr and not wrong.stdout
    (tmp_path / "config.json").write_text("[1, 2]")
    assert "must hold one JSON object" in planned(f"actor.path={tmp_path}", "--gpu", "24", "--json").stderr


def test_an_overlay_that_cannot_be_written_is_an_error(tmp_path):
    failed = planned("--gpu", "24", "--fit", "--out", str(tmp_path))
    assert failed.exit_code == 2 and f"--out {tmp_path} cannot be written" in failed.stderr


def this_machine(monkeypatch, gpus: list[CardMemory], ram: int = 64) -> None:
    monkeypatch.setattr(cards, "here", lambda: gpus)
    monkeypatch.setattr(Machine, "memory", ram * GIB)
    monkeypatch.setattr(Machine, "memory_limit", None)


def test_this_machines_ram_counts_and_that_of_others_does_not(monkeypatch):
    this_machine(monkeypatch, [CardMemory(24)], ram=8)
    offloaded = (*BASE, "actor.fsdp.offload_params=true", "sglang.mem_fraction_static=0.3")
    here = planned(*offloaded)
    assert here.exit_code == 1 and "of RAM; this machine has 8.0." in here.output
    elsewhere = planned(*offloaded, "--gpu", "24")
    assert elsewhere.exit_code == 0 and "this machine has" not in elsewhere.output
    monkeypatch.setattr(Machine, "memory", 64 * GIB)
    assert planned(*offloaded).exit_code == 0
    monkeypatch.setattr(Machine, "memory_limit", 8 * GIB)  # a container's
    assert planned(*offloaded).exit_code == 1


def test_a_card_that_others_hold_writes_no_overlay_and_says_why(monkeypatch, tmp_path):
    this_machine(monkeypatch, [CardMemory(24, used=23.0)])
    overlay = tmp_path / "fits.yaml"
    full = planned("--fit", "--out", str(overlay))
    assert full.exit_code == 1 and not overlay.exists()
    assert "end what holds 23.0 GiB" in full.output


def test_little_room_is_said():
    assert "23.4 of 24.0 GiB: fits, with only 0.6 GiB to spare" in planned(*BASE, "--gpu", "24").output
    assert "to spare" not in planned(*BASE, "--gpu", "80").output


def test_several_machines_and_several_cards():
    nodes = ("--config", str(PROJECT / "configs/scales/2nodes.yaml"))
    assert "GPU 8 to 15" in planned(*nodes, "--gpus", "8x80").output
    few = planned(*nodes, "--gpus", "4x80")
    assert few.exit_code == 2 and "--gpus 8x80" in few.stderr
