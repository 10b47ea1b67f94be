"""What the doctor says last: a command that runs here; and the command line itself."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest
from simulated_machines import DRIVER, GPU_SET, H100, RTX_4090, a_gpu_machine, a_laptop, advise, examine
from typer.testing import CliRunner

from areal_gsm8k.cli import app
from areal_gsm8k.doctor import advice, examination, requested
from areal_gsm8k.machine.facts import Machine
from areal_gsm8k.machine.nvidia import Driver
from areal_gsm8k.paths import PROJECT


def test_settings_that_cure_are_in_the_command():
    said = advise(a_gpu_machine(), "sglang.attention_backend=fa3", "actor.attn_impl=flash_attention_2")
    assert said.command.endswith(
        "sglang.attention_backend=fa3 actor.attn_impl=flash_attention_2 "
        "sglang.attention_backend=flashinfer actor.attn_impl=sdpa"
    )  # the later one wins
    assert "right" in said.remark


def test_what_needs_hands_leaves_the_cpu_recipe():
    said = advise(a_gpu_machine(nvcc=None))
    assert said.command == "CUDA_VISIBLE_DEVICES= ./run train --config configs/cpu.yaml"
    assert "after compilers: ./run train" in said.remark
    assert advise(a_laptop(python=(3, 9, 2))).remark == "only after what failed is put right (python)"
    assert advise(a_laptop(system="Windows")).command == "wsl --install -d Ubuntu"
    assert advise(a_laptop(), "gconfig.n_sampels=4").command == "./run train"


def test_a_gpu_the_doctor_cannot_use_is_not_trained_on():
    assert advise(a_laptop(nvidia_device=True)).command == "./run train --config configs/cpu.yaml"


def test_an_images_own_packages_are_not_replaced():
    other = {"installed": GPU_SET | {"torch": "2.10.0"}}
    assert "installs the locked set" in examine(a_gpu_machine(**other))["versions"].finding.fix
    image = a_gpu_machine(**other, environment={"AREAL_GSM8K_VENV": "/opt/.venv"})
    assert "does not change /opt/.venv" in examine(image)["versions"].finding.fix


def test_the_recipe_is_what_train_takes_by_itself():
    both = replace(DRIVER, gpus=(RTX_4090, replace(H100, index=1)))
    assert [file.stem for file in advice.recipe(a_gpu_machine(driver=both))] == ["24gb", "2gpus"]
    assert advice.recipe(a_laptop()) == []


def test_the_recipe_is_what_is_examined_and_advised(tmp_path):
    overlay = tmp_path / "24gb.yaml"
    overlay.write_text("sglang: {mem_fraction_static: 0.3}\n")
    machine = a_gpu_machine()
    asked = requested.read([], ["seed=3"], 1, [overlay])
    lines = examination.examine(machine, asked)
    assert "mem_fraction_static=0.3" in next(line for line in lines if line.name == "one card for both").finding.found
    assert advice.advise(lines, machine, asked).command.startswith(f"./run train --config {overlay} seed=3")
    assert requested.read([PROJECT / "configs/cpu.yaml"], [], 1, [overlay]).get("sglang.mem_fraction_static") == 0.5
    wrong = requested.read([], ["n=3"], 1, [overlay])
    assert wrong.mistake and (wrong.files, wrong.overrides) == ((overlay,), ())


@pytest.fixture
def command(monkeypatch):
    """The command line on a simulated machine."""

    def run(machine: Machine, *arguments: str):
        monkeypatch.setattr("areal_gsm8k.machine.facts.Machine", lambda: machine)
        return CliRunner().invoke(app, ["doctor", *arguments])

    return run


def test_exit_codes_and_json(command):
    healthy = command(a_laptop(), "--json")
    said = json.loads(healthy.stdout)
    assert (healthy.exit_code, said["failed"], said["warned"], said["command"]) == (0, 0, 0, "./run train")
    assert {"group": "host", "name": "python", "level": "ok", "found": "3.11.7", "fix": "", "cure": ""} in said["lines"]
    assert command(a_laptop(cores=1)).exit_code == 0  # warnings are not failures
    sick = command(a_laptop(python=(3, 9, 2)))
    assert sick.exit_code == 1
    assert "fail python" in " ".join(sick.stdout.split()) and "1 failed" in sick.stdout


def test_square_brackets_of_others_are_shown(command):
    error = Driver(there=True, error="[red]no[/red] devices")
    assert "[red]no[/red] devices" in " ".join(command(a_laptop(driver=error)).stdout.split())


def test_this_machine_without_importing_torch():
    script = """
import sys
from areal_gsm8k.cli import app
try:
    app(["doctor", "--json"])
except SystemExit as end:
    print("torch" in sys.modules, end.code, file=sys.stderr)
"""
    offline = os.environ | {"HF_HUB_OFFLINE": "1", "HF_ENDPOINT": "http://127.0.0.1:9"}
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=offline, cwd=PROJECT, timeout=300
    )
    said = json.loads(done.stdout)
    assert done.stderr.split()[-2:] == ["False", str(int(said["failed"] > 0))]
    assert not [line for line in said["lines"] if "could not be checked" in line["found"]]
