"""Which overlays `./run train` takes by itself, and that what it takes fits the card by the memory plan."""

import pytest

from areal_gsm8k import recipes
from areal_gsm8k.loop import scales
from areal_gsm8k.loop.config import CPU_OVERLAY, make_plan
from areal_gsm8k.memory import GPU, model_config, plan_for

# GiB that nvidia-smi reports for a card sold as 24 GB (L4, RTX 4090), 16 (T4, RTX 4080), 12, 8 and 80 GB (H100)
REPORTED = {22.5: "24gb", 23.99: "24gb", 15.0: "16gb", 15.99: "16gb", 12.0: "12gb", 8.0: "8gb", 79.6: "80gb"}
DESKTOP = 0.5  # GiB that Windows or a desktop takes of a card


def names(*memories: float) -> list[str]:
    return [file.stem for file in scales.suited(list(memories))]


def test_a_cards_memory_chooses_its_overlay():
    assert {memory: names(memory)[0] for memory in REPORTED} == REPORTED
    assert names(8.0) == ["8gb", "lora"]  # full training of even the smallest model does not fit beside a server
    assert names(40.0) == ["24gb"] and names(6.0) == [] == names()


def test_several_cards_add_theirs_and_the_smallest_card_counts():
    assert names(80, 80) == ["80gb", "2gpus"]
    assert names(24, 80, 80) == ["24gb", "2gpus"]
    assert names(*[79.6] * 8) == ["80gb", "8gpus"]


@pytest.mark.parametrize("memory", REPORTED)
@pytest.mark.parametrize("backend", ["sglang", "vllm"])
def test_what_is_chosen_fits_the_card(memory, backend):
    made = make_plan([*scales.suited([memory]), recipes.find(backend)], [], gpus=1)
    config, _ = model_config.read(made.get("actor.path"))
    planned = plan_for(made.values, config, [GPU(memory, used=DESKTOP)])
    assert planned.fits, f"{planned.fullest.total / 2**30:.1f} GiB"


@pytest.mark.parametrize("count", [2, 4, 8])
def test_what_is_chosen_fits_several_cards(count):
    made = make_plan(scales.suited([24.0] * count), [], gpus=count)
    config, _ = model_config.read(made.get("actor.path"))
    assert plan_for(made.values, config, [GPU(24.0)] * count).fits


def test_train_says_what_it_took(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(scales.devices, "listed", lambda: [])
    files, why = scales.of_this_machine()
    assert files == [CPU_OVERLAY] and why.startswith("No NVIDIA GPU found: using configs/cpu.yaml")

    monkeypatch.setattr(scales.devices, "listed", lambda: ["GPU-a", "GPU-b"])
    monkeypatch.setattr(scales.cards, "here", lambda: [GPU(80.0), GPU(23.99)])
    files, why = scales.of_this_machine()
    assert [file.stem for file in files] == ["24gb", "2gpus"]
    assert why.startswith("2 NVIDIA GPUs of 24 GiB: using configs/scales/24gb.yaml and configs/scales/2gpus.yaml.")

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-a")
    files, why = scales.of_this_machine()
    assert [file.stem for file in files] == ["80gb"] and why.startswith("1 NVIDIA GPU of 80 GiB")

    monkeypatch.setattr(scales.cards, "here", lambda: [])  # a driver that lists cards and does not give their memory
    assert scales.of_this_machine()[1].startswith("1 NVIDIA GPU: using train_grpo.yaml as it is.")
