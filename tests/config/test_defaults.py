"""Which overlays `./run train` takes by itself, and that what it takes fits the card by the memory plan."""

from pathlib import Path

import pytest

from areal_gsm8k.config import defaults, recipes
from areal_gsm8k.config.compose import make_plan
from areal_gsm8k.paths import CONFIGS
from areal_gsm8k.plan.memory import CardMemory, model_config, plan_for

# GiB that nvidia-smi reports for a card sold as 24 GB (L4, RTX 4090), 16 (T4, RTX 4080), 12, 8 and 80 GB (H100)
REPORTED = {22.5: "24gb", 23.99: "24gb", 15.0: "16gb", 15.99: "16gb", 12.0: "12gb", 8.0: "8gb", 79.6: "80gb"}
DESKTOP = 0.5  # GiB that Windows or a desktop takes of a card


def names(*memories: float) -> list[str]:
    return [file.stem for file in defaults.suited(list(memories))]


def test_a_cards_memory_chooses_its_overlay():
    assert {memory: names(memory)[0] for memory in REPORTED} == REPORTED
    assert names(8.0) == ["8gb", "lora"]  # full training of even the smallest model does not fit beside a server
    assert names(40.0) == ["24gb"] and names() == []
    assert names(6.0) == ["8gb", "lora"]  # the least there is; `gsm8k plan --fit` changes one key more


def test_several_cards_add_theirs_and_the_smallest_card_counts():
    assert names(80, 80) == ["80gb", "2gpus"]
    assert names(24, 80, 80) == ["24gb", "2gpus"]
    assert names(*[79.6] * 8) == ["80gb", "8gpus"]


@pytest.mark.parametrize("memory", REPORTED)
@pytest.mark.parametrize("backend", ["sglang", "vllm"])
def test_what_is_chosen_fits_the_card(memory, backend):
    made = make_plan([*defaults.suited([memory]), recipes.find(backend)], [], gpus=1)
    config, _ = model_config.read(made.get("actor.path"))
    planned = plan_for(made.values, config, [CardMemory(memory, used=DESKTOP)])
    assert planned.fits, f"{planned.fullest.total / 2**30:.1f} GiB"


@pytest.mark.parametrize("count", [2, 4, 8])
def test_what_is_chosen_fits_several_cards(count):
    made = make_plan(defaults.suited([24.0] * count), [], gpus=count)
    config, _ = model_config.read(made.get("actor.path"))
    assert plan_for(made.values, config, [CardMemory(24.0)] * count).fits


@pytest.fixture
def machine(nvidia_smi, monkeypatch):
    """Pretends cards of so many GiB, seen through CUDA_VISIBLE_DEVICES."""

    def put(*memories: float | None, variable: str | None = None, capability: str = "8.9") -> None:
        told = [("[N/A]" if memory is None else round(memory * 1024)) for memory in memories]
        letters = zip("abcdefgh", told, strict=False)
        nvidia_smi(*({"uuid": f"GPU-{a}", "memory.total": mib, "compute_cap": capability} for a, mib in letters))
        if variable is not None:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", variable)

    return put


def taken() -> tuple[list[str], str]:
    files, _, why = defaults.of_this_machine()
    return [file.stem for file in files], why


def test_train_says_what_it_took(machine):
    machine(80.0, 23.99)
    assert taken()[0] == ["24gb", "2gpus"]
    overlays = "configs/scales/24gb.yaml and configs/scales/2gpus.yaml"
    assert taken()[1].startswith(f"2 NVIDIA GPUs (80, 24 GiB): using {overlays}. ")
    machine(80.0, 23.99, variable="GPU-a")
    assert taken()[0] == ["80gb"] and taken()[1].startswith("1 NVIDIA GPU (80 GiB)")
    machine(22.5, 22.5, 22.5)
    assert "2gpus.yaml; 1 stays idle." in taken()[1]
    machine(None, None, None)  # a driver that lists cards and does not tell their memory
    assert taken()[1].startswith("3 NVIDIA GPUs: using train_grpo.yaml as it is. ")


def test_an_old_generation_gets_the_settings_it_needs(machine):
    machine(15.0, capability="7.5")
    files, settings, why = defaults.of_this_machine()
    assert settings == ["sglang.attention_backend=triton", "sglang.sampling_backend=pytorch"]
    assert "16gb.yaml, sglang.attention_backend=triton, sglang.sampling_backend=pytorch. " in why
    assert make_plan(files, settings, gpus=1).get("sglang.attention_backend") == "triton"
    machine(15.0)
    assert defaults.of_this_machine()[1] == []


def test_train_says_why_it_takes_the_cpu_recipe(machine, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert taken() == (["cpu"], taken()[1]) and taken()[1].startswith("No NVIDIA GPU found: using configs/cpu.yaml")
    machine()  # a broken driver
    assert taken()[0] == ["cpu"] and taken()[1].startswith("nvidia-smi lists no GPU (./run doctor says why): using")
    machine(24.0, variable="7")
    assert taken()[0] == ["cpu"] and "CUDA_VISIBLE_DEVICES=7 leaves none of this machine's 1 GPUs" in taken()[1]


def test_a_models_overlay_gets_the_scale_of_a_cpu_where_there_is_no_gpu(machine):
    model, scale = Path("configs/models/qwen2.5-0.5b.yaml"), CONFIGS / "scales" / "cpu.yaml"
    machine()
    files, why = defaults.with_scale([model], ["actor.lr=1e-5"])
    assert files == [model, scale] and "adding configs/scales/cpu.yaml" in why
    assert make_plan(files, [], gpus=0).allocation.rollout.backend == "embedded"
    assert defaults.with_scale([Path("qwen2.5-0.5b")], [])[0][1:] == [scale]  # by its name


@pytest.mark.parametrize(
    ("files", "overrides"),
    [
        (["configs/models/qwen2.5-0.5b.yaml", "configs/scales/24gb.yaml"], []),
        (["configs/cpu.yaml"], []),
        (["configs/models/qwen2.5-0.5b.yaml"], ["scheduler.type=slurm"]),
        (["configs/models/qwen2.5-0.5b.yaml"], ["allocation_mode=sglang.d1+d1"]),
        (["no-such-file"], []),
    ],
)
def test_no_scale_is_added_where_the_user_chose(machine, files, overrides):
    machine()
    assert defaults.with_scale([Path(file) for file in files], overrides) == ([Path(file) for file in files], "")


def test_no_scale_is_added_with_a_gpu(machine):
    machine(24.0)
    model = Path("configs/models/qwen2.5-0.5b.yaml")
    assert defaults.with_scale([model], []) == ([model], "")
