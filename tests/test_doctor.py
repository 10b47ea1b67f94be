"""Every line of the doctor, on machines that are simulated by putting their facts in place."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from functools import cache, cached_property
from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from areal_gsm8k.cli import app
from areal_gsm8k.doctor import advice, examination, wanted
from areal_gsm8k.doctor.finding import FAIL, OK, WARN
from areal_gsm8k.doctor.gpu import attention_backend
from areal_gsm8k.doctor.machine import GIB, Disk, Machine
from areal_gsm8k.doctor.nvidia import MIB, Driver, Gpu
from areal_gsm8k.doctor.reach import Answer
from areal_gsm8k.loop.config import PROJECT

RTX_4090 = Gpu(0, "GPU-a", "NVIDIA GeForce RTX 4090", (8, 9), 24_564 * MIB, 400 * MIB)
H100 = Gpu(0, "GPU-h", "NVIDIA H100 80GB HBM3", (9, 0), 81_559 * MIB, 4 * MIB)
RTX_5090 = Gpu(0, "GPU-b", "NVIDIA GeForce RTX 5090", (12, 0), 32_607 * MIB, 400 * MIB)
T4 = Gpu(0, "GPU-t", "Tesla T4", (7, 5), 15_360 * MIB, 3 * MIB)
DRIVER = Driver(there=True, version="570.86.15", cuda=(12, 8), gpus=(RTX_4090,))
CPU_SET = Machine().pins("cpu")
GPU_SET = Machine().pins("gpu")
HEALTHY = {
    "system": "Linux", "architecture": "x86_64", "wsl": 0, "python": (3, 11, 7), "cores": 16, "cpu_flags": {"avx2"},
    "memory": 64 * GIB, "memory_free": 60 * GIB, "memory_limit": None, "wslconfig": None, "shared_memory": 32 * GIB,
    "open_files": 65_536, "training": [], "zombies": 0, "now": 1.8e9, "newest_file": 1.7e9,
    "nvidia_device": True, "torch_sees": {"count": 1, "archs": ["sm_75", "sm_80", "sm_86", "sm_90", "sm_120"]},
    "nvcc": "/usr/local/cuda/bin/nvcc", "compiler": "/usr/bin/g++", "python_headers": True, "torch_cuda": (12, 8),
    "project": PROJECT, "hub_cache": Path("/home/u/.cache/huggingface/hub"), "hub_url": "https://huggingface.co",
    "answers": {"hub": Answer(skew=0.4), "PyPI": Answer(skew=0.2)}, "loopback_error": "", "free_ports": 1.0,
    "host_address": "192.168.1.5", "address_is_ours": True, "proxied": False, "offline": [], "hub_token": None,
    "disk": lambda folder: Disk(folder, "ext4", 500 * GIB, True), "is_cached": lambda kind, name: True,
}  # fmt: skip


def a_gpu_machine(**facts) -> Machine:
    return simulated(HEALTHY | {"driver": DRIVER, "installed": GPU_SET} | facts)


def a_laptop(**facts) -> Machine:
    without = {"driver": Driver(), "nvidia_device": False, "torch_cuda": None, "installed": CPU_SET, "memory": 8 * GIB}
    return simulated(HEALTHY | without | {"memory_free": 6 * GIB} | facts)


def simulated(facts: dict) -> Machine:
    machine = Machine(environment=facts.pop("environment", {}))
    vars(machine).update(facts)
    return machine


def with_gpu(gpu: Gpu, **changes) -> dict:
    return {"driver": replace(DRIVER, gpus=(gpu,), **changes)}


@cache
def composed(overrides: tuple[str, ...], gpus: int, recipe: tuple[Path, ...]) -> wanted.Wanted:
    return wanted.read([], list(overrides), gpus, list(recipe))


def asks(machine: Machine, overrides: tuple[str, ...]) -> wanted.Wanted:
    return composed(overrides, len(machine.driver.gpus), tuple(advice.recipe(machine)))


def examine(machine: Machine, *overrides: str) -> dict[str, examination.Line]:
    return {line.name: line for line in examination.examine(machine, asks(machine, overrides))}


def advise(machine: Machine, *overrides: str) -> advice.Advice:
    asked = asks(machine, overrides)
    return advice.advise(examination.examine(machine, asked), machine, asked)


LAPTOP, GPU = a_laptop, a_gpu_machine
NO_ANSWER = Answer("Name or service not known")
NO_NETWORK = {"hub": NO_ANSWER, "PyPI": NO_ANSWER}
# the line, the machine, its facts, the settings; the level and part of what is found and of the fix
CASES = [
    ("system", LAPTOP, {"system": "Windows", "architecture": "x86_64"}, [], FAIL, "native Windows", "wsl --install"),
    ("system", LAPTOP, {"wsl": 1}, [], FAIL, "WSL 1", "wsl --set-version"),
    ("system", GPU, {"architecture": "arm64"}, [], WARN, "Linux on arm64", "docker/"),
    ("python", LAPTOP, {"python": (3, 13, 1)}, [], FAIL, "3.13.1", "PYTHON=python3.12"),
    ("processor", LAPTOP, {"cores": 1}, [], WARN, "1 core:", "two or more"),
    ("processor", LAPTOP, {"cpu_flags": {"sse2"}}, [], WARN, "without AVX2", "pass the host's CPU on"),
    ("memory", LAPTOP, {"memory": GIB}, [], FAIL, "1.0 GiB", "troubleshooting"),
    ("memory", GPU, {"memory": 12 * GIB}, [], WARN, "12.0 GiB", "killed"),
    ("memory", GPU, {"memory_free": 4 * GIB}, [], WARN, "4.0 free", "Close other programs"),
    ("memory", GPU, {"memory_limit": 4 * GIB}, [], FAIL, "the container's limit", "docker run --memory"),
    ("WSL memory", GPU, {"wsl": 2, "memory": 8 * GIB}, [], WARN, "half of the PC's", "memory=16GB"),
    ("shared memory", GPU, {"shared_memory": 64 * MIB}, [], FAIL, "0.1 GiB", "--shm-size=16g"),
    ("shared memory", LAPTOP, {"shared_memory": 64 * MIB}, [], WARN, "CPU recipe only", "shm_size"),
    ("open files", GPU, {"open_files": 256}, [], WARN, "256 at once", "ulimit -n"),
    ("processes", GPU, {"training": ["77 python train_grpo.py"]}, [], WARN, "77 python", "kill PID"),
    ("processes", GPU, {"zombies": 900}, [], WARN, "900 zombies", "--init"),
    ("clock", GPU, {"now": 1.6e9}, [], WARN, "before this project was written", "hwclock"),
    ("clock", LAPTOP, {"answers": {"hub": NO_ANSWER, "PyPI": Answer(skew=7200.0)}}, [], WARN,
     "7200 s behind", "hwclock"),
    ("driver", GPU, {"driver": Driver(there=True, error="Driver/library version mismatch")}, [], FAIL,
     "mismatch", "Restart"),
    ("driver", GPU, {"driver": Driver(there=True, error="No devices were found")}, [], FAIL,
     "No devices", "ubuntu-drivers"),
    ("driver", GPU, {"driver": Driver(), "wsl": 2}, [], WARN, "no driver for it", "in Windows, none inside WSL"),
    ("chosen GPUs", GPU, {"environment": {"CUDA_VISIBLE_DEVICES": "1"}}, [], FAIL, "leaves 0 of 1", "unset"),
    ("chosen GPUs", GPU, {"environment": {"CUDA_VISIBLE_DEVICES": "0,1"}}, [], FAIL, "leaves 1 of 1", "nvidia-smi -L"),
    ("chosen GPUs", GPU, {"environment": {"CUDA_VISIBLE_DEVICES": "MIG-1"}}, [], FAIL,
     "a part of one (MIG)", "container"),
    ("cards", GPU, with_gpu(replace(T4, name="V100", capability=(7, 0))), [], FAIL, "7.5", "configs/cpu.yaml"),
    ("cards", GPU, with_gpu(T4), [], WARN, "no bfloat16", "logprob_drift"),
    ("CUDA", GPU, {"torch_cuda": None}, [], FAIL, "a CPU build", "AREAL_GSM8K_DEVICE=gpu"),
    ("CUDA", GPU, {"torch_cuda": (13, 0)}, [], FAIL, "CUDA 13.0, the driver runs up to 12.8", "580"),
    ("CUDA", GPU, with_gpu(RTX_5090, cuda=(12, 4)), [], FAIL, "Blackwell", "570"),
    ("CUDA", GPU, with_gpu(RTX_4090, cuda=(12, 4)), [], WARN, "up to 12.4", "Update the driver"),
    ("torch", GPU, {"torch_sees": {"count": 0, "archs": []}}, [], FAIL, "torch sees 0 of 1", "--gpus all"),
    ("torch", GPU, with_gpu(RTX_5090) | {"torch_sees": {"count": 1, "archs": ["sm_80", "sm_90"]}}, [], FAIL,
     "5090", "cpu.yaml"),
    ("compilers", GPU, {"nvcc": None}, [], FAIL, "nvcc", "cuda-toolkit-12-8"),
    ("compilers", GPU, {"compiler": None, "python_headers": False}, [], FAIL,
     "g++, Python.h", "build-essential python3.11-dev"),
    ("server's attention", GPU, {}, ["sglang.attention_backend=fa3"], FAIL, "made for Hopper", "=flashinfer"),
    ("server's attention", GPU, with_gpu(RTX_5090), ["sglang.attention_backend=fa3"], FAIL,
     "refuses it above 9.0", "=flashinfer"),
    ("server's attention", GPU, with_gpu(T4), [], FAIL,
     "below 8.0", "attention_backend=triton sglang.sampling_backend=pytorch"),
    ("trainer's attention", GPU, {}, ["actor.attn_impl=flash_attention_2"], FAIL,
     "not installed", "actor.attn_impl=sdpa"),
    ("one card for both", GPU, with_gpu(replace(RTX_4090, compute_mode="Exclusive_Process")), [], FAIL,
     "one process", "-c DEFAULT"),
    ("one card for both", GPU, {}, ["sglang.mem_fraction_static=0.9"], WARN, "leaves the trainer little", "=0.4"),
    ("GPU memory", GPU, with_gpu(replace(RTX_4090, used=9 * GIB), holders=("12, game, 9 GiB",)), [], WARN,
     "9.0 of 24 GiB", "kill PID"),
    ("versions", GPU, {"installed": CPU_SET}, [], FAIL, "not installed: sglang", "AREAL_GSM8K_DEVICE=gpu"),
    ("versions", LAPTOP, {"installed": CPU_SET | {"torch": "2.1.0"}}, [], WARN, "torch 2.1.0 (locked: ", "cpu ./run"),
    ("project", GPU, {"wsl": 2, "disk": lambda f: Disk(f, "9p", 500 * GIB, True)}, [], WARN, "a Windows drive", "cd ~"),
    ("runs", GPU, {"wsl": 2, "disk": lambda f: Disk(f, "9p", 500 * GIB, True)}, [], WARN,
     "a Windows drive", "runs_dir=~"),
    ("runs", LAPTOP, {"disk": lambda f: Disk(f, "ext4", 500 * GIB, False)}, [], FAIL, "may not be written", "chown"),
    ("runs", LAPTOP, {"disk": lambda f: Disk(f, "ext4", 100 * MIB, True)}, [], FAIL, "0 GiB free", "runs/*/*/recovery"),
    ("runs", GPU, {"disk": lambda f: Disk(f, "ext4", 20 * GIB, True)}, [], WARN,
     "40 are comfortable", "old checkpoints"),
    ("runs", LAPTOP, {"disk": lambda f: Disk(f, "tmpfs", 9 * GIB, True)}, [], WARN, "in memory", "runs_dir"),
    ("hub cache", GPU, {"wsl": 2, "disk": lambda f: Disk(f, "9p", 500 * GIB, True)}, [], WARN,
     "a Windows drive", "HF_HOME"),
    ("hub cache", GPU, {"disk": lambda f: Disk(f, "ext4", GIB, True)}, [], FAIL, "2 are needed", "hf cache prune"),
    ("loopback", LAPTOP, {"loopback_error": "Operation not permitted"}, [], FAIL, "not permitted", "dev lo|set lo up"),
    ("ports", GPU, {"free_ports": 0.2}, [], WARN, "80% of", "ss -ltnp"),
    ("ports", GPU, {"free_ports": 0.0}, [], FAIL, "none of those tried", "ss -ltnp"),
    ("host address", GPU, {"address_is_ours": False}, [], FAIL, "not this machine's", "/etc/hosts"),
    ("proxy", GPU, {"proxied": True}, [], FAIL, "would go to the proxy", "NO_PROXY=localhost,127.0.0.1,192.168.1.5"),
    ("hub", GPU, {"answers": NO_NETWORK}, [], WARN, "nothing is needed", "HF_HUB_OFFLINE=1"),
    ("hub", GPU, {"answers": NO_NETWORK, "is_cached": lambda kind, name: kind == "models"}, [], FAIL,
     "not on this disk: openai/gsm8k", "HF_ENDPOINT"),
    ("hub", GPU, {"offline": ["HF_HUB_OFFLINE"], "is_cached": lambda kind, name: False}, [], FAIL,
     "HF_HUB_OFFLINE forbids it; not on this disk: Qwen/Qwen2.5-0.5B-Instruct, openai/gsm8k", "unset HF_HUB_OFFLINE"),
    ("hub token", GPU, {"is_cached": lambda kind, name: False}, ["actor.path=meta-llama/Llama-3.2-1B-Instruct"], FAIL,
     "accepted accounts only", "hf auth login"),
    ("hub token", GPU, {"hub_token": "secret\n"}, [], WARN, "does not look like one", "HF_TOKEN=hf_"),
    ("package index", LAPTOP, {"answers": {"hub": Answer(), "PyPI": NO_ANSWER}}, [], WARN,
     "pypi.org does not", "PIP_INDEX_URL"),
    ("configuration", GPU, {}, ["gconfig.n_sampels=4"], FAIL, "Did you mean 'gconfig.n_samples'", "--dry-run"),
    ("configuration", LAPTOP, {}, ["allocation_mode=sglang.d1+d1"], FAIL, "needs an NVIDIA GPU", "--dry-run"),
    ("configuration", GPU, {}, ["actor.weight_update_mode=xccl"], FAIL,
     "NCCL refuses two ranks on one device", "--dry-run"),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case[0]}: {case[5]}")
def test_a_machine_with_something_wrong(case):
    name, machine, facts, settings, level, found, fix = case
    finding = examine(machine(**facts), *settings)[name].finding
    assert finding.level == level, finding
    assert found in finding.found
    assert any(part in finding.fix for part in fix.split("|")), finding.fix


def test_without_an_address_servers_cannot_listen():
    def nowhere(machine):
        raise OSError("Network is unreachable")

    alone = a_gpu_machine()
    del vars(alone)["host_address"]
    alone.__class__ = type("Alone", (Machine,), {"host_address": property(nowhere)})
    finding = examine(alone)["host address"].finding
    assert finding.level == FAIL and "Network is unreachable" in finding.found and "/etc/hosts" in finding.fix


def test_every_line_has_a_failing_machine():
    lines = {name for checks in examination.GROUPS.values() for name in checks}
    assert {case[0] for case in CASES} | {"memory plan"} == lines  # that one below


@pytest.mark.parametrize("gpu", [RTX_4090, H100, RTX_5090])
def test_a_healthy_gpu_machine(gpu):
    lines = examine(a_gpu_machine(**with_gpu(gpu)))
    assert {line.name: line.finding for line in lines.values() if line.finding.level != OK} == {}
    assert lines["one card for both"].finding.found.startswith("server and trainer share one card")
    assert "packed sequences kept apart" in lines["trainer's attention"].finding.found


def test_a_healthy_laptop():
    lines = examine(a_laptop())
    assert {line.name: line.finding for line in lines.values() if line.finding.level != OK} == {}
    assert not {"cards", "compilers", "WSL memory", "hub cache", "proxy"} & set(lines)  # do not apply
    assert advise(a_laptop()) == advice.Advice("./run train", "")


@pytest.mark.parametrize(
    ("capability", "backend"),
    [((7, 5), "triton"), ((8, 0), "flashinfer"), ((8, 9), "flashinfer"), ((9, 0), "fa3"), ((12, 0), "flashinfer")],
)
def test_the_attention_backend_follows_the_card(capability, backend):
    assert attention_backend(capability) == backend


def test_turns_on_one_card_are_no_shares():
    found = examine(a_gpu_machine(), "enable_offload=true", "sglang.mem_fraction_static=0.9")
    assert found["one card for both"].finding.found.startswith("server and trainer take turns")
    lacking = {name: version for name, version in GPU_SET.items() if name != "torch-memory-saver"}
    assert (
        "torch-memory-saver"
        in examine(a_gpu_machine(installed=lacking), "enable_offload=true")["versions"].finding.found
    )


def test_two_kinds_of_cards_take_what_both_can():
    pair = replace(DRIVER, gpus=(H100, replace(RTX_4090, index=1)))
    found = examine(a_gpu_machine(driver=pair), "sglang.attention_backend=fa3")["server's attention"].finding
    assert found.level == FAIL and found.cure == "sglang.attention_backend=flashinfer"


# What is said last


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
    asked = wanted.read([], ["seed=3"], 1, [overlay])
    lines = examination.examine(machine, asked)
    assert "mem_fraction_static=0.3" in next(line for line in lines if line.name == "one card for both").finding.found
    assert advice.advise(lines, machine, asked).command.startswith(f"./run train --config {overlay} seed=3")
    assert wanted.read([PROJECT / "configs/cpu.yaml"], [], 1, [overlay]).get("sglang.mem_fraction_static") == 0.5
    wrong = wanted.read([], ["n=3"], 1, [overlay])
    assert wrong.mistake and (wrong.files, wrong.overrides) == ((overlay,), ())


def test_a_plan_that_does_not_fit_is_cured_by_its_own_settings(monkeypatch):
    class Plan:
        def __init__(self, fits):
            self.fits, self.fullest = fits, SimpleNamespace(total=30 * GIB, capacity=24 * GIB)

    settings = {"enable_offload": True, "actor.mb_spec.max_tokens_per_mb": 2560}
    memory = SimpleNamespace(
        GPU=lambda gib, used: (gib, used),
        model_config=SimpleNamespace(read=lambda path: ({"model_type": path}, "a table")),
        plan_for=lambda values, model, gpus: Plan(fits=len(gpus) > 1),
    )
    found = SimpleNamespace(plan=Plan(True), settings=settings)
    fitting = SimpleNamespace(fit=lambda values, model, gpus, resolve: found if resolve(settings) else None)
    monkeypatch.setitem(sys.modules, "areal_gsm8k.memory", memory)
    monkeypatch.setitem(sys.modules, "areal_gsm8k.memory.fit", fitting)
    finding = examine(a_gpu_machine())["memory plan"].finding
    assert finding.level == FAIL and finding.found.startswith("30.0 of 24.0 GiB")
    assert finding.cure == "enable_offload=true actor.mb_spec.max_tokens_per_mb=2560"
    assert advise(a_gpu_machine()).command.endswith(f" {finding.cure}")
    found.plan = Plan(False)
    assert "no setting makes it fit" in examine(a_gpu_machine())["memory plan"].finding.found
    two = replace(DRIVER, gpus=(RTX_4090, replace(RTX_4090, index=1, uuid="GPU-z")))
    assert examine(a_gpu_machine(driver=two))["memory plan"].finding.level == OK


# A reader that breaks, and the command itself


def test_a_check_that_breaks_is_a_warning_with_the_reason():
    def broken(machine):
        raise RuntimeError("no such\nregister")

    facts = {name: property(broken) for name, fact in vars(Machine).items() if isinstance(fact, cached_property)}
    machine = type("Broken", (Machine,), facts)()
    asked = wanted.read([], [], 0, [])
    lines = examination.examine(machine, asked)
    assert {line.finding.level for line in lines if line.name not in ("versions", "configuration")} == {WARN}
    assert {line.finding.found for line in lines if line.name == "driver"} == {
        "could not be checked: RuntimeError: no such register"
    }


@pytest.fixture
def command(monkeypatch):
    """The command line on a simulated machine."""

    def run(machine: Machine, *arguments: str):
        monkeypatch.setattr("areal_gsm8k.doctor.machine.Machine", lambda: machine)
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
