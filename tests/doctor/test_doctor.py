"""Every line of the doctor on a machine with something wrong, and the healthy ones."""

from dataclasses import replace
from functools import cached_property

import pytest
from simulated_machines import CPU_SET, RTX_4090, RTX_5090, T4, a_gpu_machine, a_laptop, advise, examine, with_gpu

from areal_gsm8k.doctor import advice, examination, requested
from areal_gsm8k.doctor.finding import FAIL, OK, WARN
from areal_gsm8k.machine.facts import Disk, Machine
from areal_gsm8k.machine.network import WebAnswer
from areal_gsm8k.machine.nvidia import GIB, MIB, Driver

LAPTOP, GPU = a_laptop, a_gpu_machine
NO_ANSWER = WebAnswer("Name or service not known")
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
    ("clock", LAPTOP, {"answers": {"hub": NO_ANSWER, "PyPI": WebAnswer(skew=7200.0)}}, [], WARN,
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
    ("GPU memory", GPU, with_gpu(replace(T4, memory=None)), [], WARN, "does not say how much memory", "plan --gpu"),
    ("cards", GPU, with_gpu(T4), [], WARN, "no bfloat16", "logprob_drift"),
    ("CUDA", GPU, {"torch_cuda": None}, [], FAIL, "a CPU build", "AREAL_GSM8K_DEVICE=gpu"),
    ("CUDA", GPU, {"torch_cuda": (13, 0)}, [], FAIL, "CUDA 13.0, the driver runs up to 12.8", "580"),
    ("CUDA", GPU, with_gpu(RTX_5090, cuda=(12, 4)), [], FAIL, "Blackwell", "570"),
    ("CUDA", GPU, with_gpu(RTX_4090, cuda=(12, 4)), [], WARN, "up to 12.4", "Update the driver"),
    ("torch", GPU, {"torch_sees": {"count": 0, "archs": []}}, [], FAIL, "torch sees 0 of 1", "--gpus all"),
    ("torch", GPU, with_gpu(RTX_5090) | {"torch_sees": {"count": 1, "archs": ["sm_80", "sm_90"]}}, [], FAIL,
     "5090", "cpu.yaml"),
    ("compilers", GPU, {"nvcc": None}, [], FAIL, "nvcc", "cuda-toolkit-12-8"),
    ("compilers", GPU, {"has_library": lambda name: False}, [], FAIL, "libnuma.so.1", "apt install libnuma1"),
    ("compilers", GPU, {"cuda_headers": False}, [], FAIL, "a link or a wrapper", "export CUDA_HOME="),
    ("compilers", GPU, {"nvcc_version": None}, [], FAIL, "does not tell its version", "nvcc --version"),
    ("compilers", GPU, {"nvcc_version": (11, 8)}, [], WARN, "CUDA 11.8, torch was built with 12.8", "toolkit-12-8"),
    ("compilers", GPU, with_gpu(RTX_5090) | {"nvcc_version": (12, 4)}, [], FAIL, "needs 12.8", "cuda-12.8"),
    ("compilers", GPU, {"compiler": None, "python_headers": False}, [], FAIL,
     "g++, Python.h", "build-essential python3.11-dev"),
    ("server's attention", GPU, {}, ["sglang.attention_backend=fa3"], FAIL, "made for Hopper", "=flashinfer"),
    ("server's attention", GPU, with_gpu(RTX_5090), ["sglang.attention_backend=fa3"], FAIL,
     "refuses it above 9.0", "=flashinfer"),
    ("server's attention", GPU, with_gpu(T4), ["sglang.attention_backend=fa3"], FAIL,
     "made for Hopper", "attention_backend=triton sglang.sampling_backend=pytorch"),
    ("server's attention", GPU, with_gpu(T4), ["sglang.attention_backend=flashinfer"], FAIL,
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
    ("package index", LAPTOP, {"answers": {"hub": WebAnswer(), "PyPI": NO_ANSWER}}, [], WARN,
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


def test_a_healthy_laptop():
    lines = examine(a_laptop())
    assert {line.name: line.finding for line in lines.values() if line.finding.level != OK} == {}
    assert not {"cards", "compilers", "WSL memory", "hub cache", "proxy"} & set(lines)  # do not apply
    assert advise(a_laptop()) == advice.Advice("./run train", "")


def test_a_check_that_breaks_is_a_warning_with_the_reason():
    def broken(machine):
        raise RuntimeError("no such\nregister")

    facts = {name: property(broken) for name, fact in vars(Machine).items() if isinstance(fact, cached_property)}
    machine = type("Broken", (Machine,), facts)()
    asked = requested.read([], [], 0, [])
    lines = examination.examine(machine, asked)
    assert {line.finding.level for line in lines if line.name not in ("versions", "configuration")} == {WARN}
    assert {line.finding.found for line in lines if line.name == "driver"} == {
        "could not be checked: RuntimeError: no such register"
    }
