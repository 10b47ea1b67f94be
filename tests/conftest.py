"""Fixtures shared by the tests: a tiny untrained model on disk, and the recipe's start model for runs."""

import os
import sys
from collections import Counter

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")

# Together about two minutes that need no start model.
MEANWHILE = ("test_memory_training.py", "test_memory_areal.py", "test_algorithms.py", "test_controls.py")


def pytest_addoption(parser):
    parser.addoption("--sglang", action="store_true", help="also test against real SGLang, installed in .venv.sglang")
    parser.addoption("--algorithms", action="store_true", help="also train three steps by every algorithm and reward")


def pytest_collection_modifyitems(items):
    """Files with most whole runs first: on two processes no long one is left over at the end.

    The first file makes the start model, minutes in which a second that needs it would only wait.
    """
    runs = Counter(item.path for item in items if "start_model" in item.fixturenames)
    first = max(runs, key=runs.__getitem__, default=None)
    items.sort(key=lambda item: (item.path != first, item.path.name not in MEANWHILE, -runs[item.path]))


@pytest.fixture(autouse=True)
def no_run_outlives_its_test():
    yield
    if runner := sys.modules.get("runner"):  # of the tests that start runs
        runner.kill_leftovers()


SMI = """#!{python}
import sys
if {status}:
    sys.exit({status})
asked = next(word.partition("=")[2].split(",") for word in sys.argv if word.startswith("--query-gpu="))
for gpu in {gpus}:
    print(", ".join(str(gpu[name]) for name in asked))
"""
CARD = {
    "name": "NVIDIA H100", "compute_cap": "9.0", "memory.total": 81559, "memory.used": 0, "compute_mode": "Default",
}  # fmt: skip


@pytest.fixture
def nvidia_smi(tmp_path, monkeypatch):
    """Puts a driver tool on the PATH that lists the given GPUs, each a CARD with what is said; clears the choice."""

    def put(*cards: dict, status: int = 0) -> None:
        gpus = [CARD | {"index": number, "uuid": f"GPU-{number}"} | card for number, card in enumerate(cards)]
        tool = tmp_path / "bin" / "nvidia-smi"
        tool.parent.mkdir(exist_ok=True)
        tool.write_text(SMI.format(python=sys.executable, gpus=gpus, status=status))
        tool.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tool.parent}:/bin:/usr/bin")
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    return put


@pytest.fixture(scope="session")
def untrained_model(tmp_path_factory):
    """Folder of a tiny random Qwen2 with its tokenizer."""
    from areal_gsm8k.data import generator
    from areal_gsm8k.sft import loop, tiny

    settings = tiny.TinySettings()
    tokenizer = tiny.make_tokenizer(settings, generator.noisy_corpus(400, seed=0))
    model = tiny.make_model(settings, tokenizer, seed=0)
    return loop.save(model, tokenizer, tmp_path_factory.mktemp("models") / "untrained")


@pytest.fixture(scope="session")
def start_model(tmp_path_factory, request):
    """Folder of the CPU recipe's start model, right now and then; a minute of one core, once for all test processes."""
    from filelock import FileLock

    from areal_gsm8k.sft import tiny

    folder = tmp_path_factory.getbasetemp()
    if hasattr(request.config, "workerinput"):  # a process of pytest-xdist: the others' folders are beside ours
        folder = folder.parent
    with FileLock(folder / "start_model.lock"):
        return tiny.start_model(folder / "start_models", seed=1)


@pytest.fixture(scope="module")
def spmd():
    """The environment of a single SPMD rank, and no process group left behind."""
    import torch

    from areal_gsm8k.launch.processes import _free_port, _spmd_environment

    patch = pytest.MonkeyPatch()
    for name, value in (_spmd_environment(0, 1) | {"MASTER_PORT": str(_free_port())}).items():
        patch.setenv(name, value)
    yield
    torch.distributed.destroy_process_group()
    patch.undo()
