"""The doctor on GPUs: what it advises for one card, for several, for cards it cannot read."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
from simulated_machines import DRIVER, GPU_SET, H100, RTX_4090, RTX_5090, T4, a_gpu_machine, advise, examine, with_gpu

from areal_gsm8k.doctor import examination, gpu, requested
from areal_gsm8k.doctor.finding import FAIL, OK, WARN
from areal_gsm8k.doctor.gpu import attention_backend, server_settings
from areal_gsm8k.machine.nvidia import GIB, MIB, Gpu
from areal_gsm8k.paths import CPU_OVERLAY


@pytest.mark.parametrize("gpu", [RTX_4090, H100, RTX_5090])
def test_a_healthy_gpu_machine(gpu):
    lines = examine(a_gpu_machine(**with_gpu(gpu)))
    assert {line.name: line.finding for line in lines.values() if line.finding.level != OK} == {}
    assert lines["one card for both"].finding.found.startswith("server and trainer share one card")
    assert "packed sequences kept apart" in lines["trainer's attention"].finding.found


@pytest.mark.parametrize(
    ("capabilities", "backend"),
    [
        ([(7, 5)], "triton"),
        ([(8, 0)], "flashinfer"),
        ([(8, 9)], "flashinfer"),
        ([(9, 0)], "fa3"),
        ([(12, 0)], "flashinfer"),
        ([(9, 0), (9, 0)], "fa3"),
        ([(9, 0), (8, 9)], "flashinfer"),  # what both support
        ([(9, 0), (12, 0)], "flashinfer"),
        ([(9, 0), (7, 5)], "triton"),
    ],
)
def test_the_attention_backend_follows_the_cards(capabilities, backend):
    assert attention_backend(capabilities) == backend


def test_cards_before_ampere_need_other_kernels():
    assert server_settings([]) == server_settings([(8, 0), (9, 0)]) == {}
    needed = {"sglang.attention_backend": "triton", "sglang.sampling_backend": "pytorch"}
    assert server_settings([(9, 0), (7, 5)]) == needed


def test_a_card_before_ampere_is_looked_at_with_the_settings_that_train_gives_it():
    machine = a_gpu_machine(**with_gpu(T4))
    found = examine(machine)["server's attention"].finding
    assert found.level == OK and "triton" in found.found
    assert "attention_backend" not in advise(machine).command  # `./run train` adds it by itself


def test_turns_on_one_card_are_no_shares():
    found = examine(a_gpu_machine(), "enable_offload=true", "sglang.mem_fraction_static=0.9")
    assert found["one card for both"].finding.found.startswith("server and trainer take turns")
    lacking = {name: version for name, version in GPU_SET.items() if name != "torch-memory-saver"}
    assert (
        "torch-memory-saver"
        in examine(a_gpu_machine(installed=lacking), "enable_offload=true")["versions"].finding.found
    )


@pytest.mark.parametrize("other", [RTX_4090, RTX_5090])
def test_two_kinds_of_cards_take_what_both_can(other):
    pair = replace(DRIVER, gpus=(H100, replace(other, index=1)))
    found = examine(a_gpu_machine(driver=pair), "sglang.attention_backend=fa3")["server's attention"].finding
    assert found.level == FAIL and found.cure == "sglang.attention_backend=flashinfer"


def test_a_plan_that_does_not_fit_is_cured_by_its_own_settings(monkeypatch):
    class Plan:
        def __init__(self, fits):
            self.fits, self.fullest = fits, SimpleNamespace(total=30 * GIB, capacity=24 * GIB)

    settings = {"enable_offload": True, "actor.mb_spec.max_tokens_per_mb": 2560}
    found = SimpleNamespace(plan=Plan(True), settings=settings)
    monkeypatch.setattr(gpu.model_config, "read", lambda path: ({"model_type": path}, "a table"))
    monkeypatch.setattr(gpu, "plan_for", lambda values, model, gpus, memory: Plan(fits=len(gpus) > 1))
    monkeypatch.setattr(gpu, "fit", lambda values, model, gpus, resolve, memory: found if resolve(settings) else None)
    finding = examine(a_gpu_machine())["memory plan"].finding
    assert finding.level == FAIL and finding.found.startswith("30.0 of 24.0 GiB")
    assert finding.cure == "enable_offload=true actor.mb_spec.max_tokens_per_mb=2560"
    assert advise(a_gpu_machine()).command.endswith(f" {finding.cure}")
    found.plan = Plan(False)
    assert "no setting makes it fit" in examine(a_gpu_machine())["memory plan"].finding.found
    two = replace(DRIVER, gpus=(RTX_4090, replace(RTX_4090, index=1, uuid="GPU-z")))
    assert examine(a_gpu_machine(driver=two))["memory plan"].finding.level == OK


@pytest.mark.parametrize(("value", "level"), [("", OK), ("-1", OK), ("7", WARN), ("GPU-z", WARN)])
def test_hiding_every_gpu_by_mistake_is_said(value, level):
    machine = a_gpu_machine(environment={"CUDA_VISIBLE_DEVICES": value})
    lines = examination.examine(machine, requested.read([], [], 0, []))
    found = next(line.finding for line in lines if line.name == "chosen GPUs")
    assert found.level == level and repr(value) in found.found
    assert level == OK or RTX_4090.name in found.found


def test_memory_that_is_not_told_is_one_line():
    shared = Gpu(0, "GPU-s", "NVIDIA GB10", (12, 1), None, 0)
    lines = examine(a_gpu_machine(**with_gpu(shared)))
    assert [name for name, line in lines.items() if line.finding.level != OK] == ["GPU memory"]
    assert "NVIDIA GB10 (memory not told, 12.1)" in lines["cards"].finding.found
    assert "memory plan" not in lines


def test_the_gpu_set_is_kept_for_the_cpu_recipe():
    lines = examination.examine(a_gpu_machine(), requested.read([CPU_OVERLAY], [], 1, []))
    versions = next(line.finding for line in lines if line.name == "versions")
    assert versions.level == OK and "requirements/gpu.txt" in versions.found


def test_a_model_too_large_leaves_this_machines_own_recipe():
    small = with_gpu(Gpu(0, "GPU-c", "NVIDIA GeForce RTX 3060", (8, 6), 12_288 * MIB, 0))
    too_large = "actor.path=Qwen/Qwen2.5-7B-Instruct"
    said = advise(a_gpu_machine(**small), too_large)
    assert said.command == "./run train --config configs/scales/12gb.yaml"
    assert said.remark == "the recipe for this machine; Qwen/Qwen2.5-7B-Instruct does not fit"
    assert "configs/cpu.yaml" in advise(a_gpu_machine(**small, nvcc=None), too_large).command
