"""Fixtures shared by the tests: a tiny untrained model on disk, and the recipe's start model for runs."""

import gc
import hashlib
import os
import shutil
import signal
import sys
from collections import Counter
from importlib.metadata import version
from pathlib import Path

import fake_nvidia_smi
import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it, and some tests send it

# Together about two minutes that need no start model.
MEANWHILE = ("test_memory_training.py", "test_memory_areal.py", "test_algorithms.py", "test_controls.py")


def pytest_addoption(parser):
    parser.addoption("--sglang", action="store_true", help="also test against real SGLang, installed in .venv.sglang")
    parser.addoption("--fast", action="store_true", help="leave out whole runs and whatever else takes long")
    parser.addoption("--gpu-path", action="store_true", help="also launch by the path for NVIDIA GPUs, with stand-ins")
    parser.addoption("--real", action="store_true", help="also test with real pretrained models, where they are there")
    parser.addoption("--models", default=str(Path(__file__).parents[1] / "models"), help="their parent folder")
    parser.addoption("--algorithms", action="store_true", help="also train three steps by every algorithm and reward")


def pytest_configure(config):
    config.addinivalue_line("markers", "run: starts a whole run")
    config.addinivalue_line("markers", "slow: takes several seconds, or needs the start model, which takes a minute")


def pytest_collection_modifyitems(config, items):
    """Files with most whole runs first: on two processes no long one is left over at the end.

    The first file makes the start model, a minute in which a second that needs it would only wait.
    """
    if config.getoption("--fast"):
        long = [item for item in items if item.get_closest_marker("run") or item.get_closest_marker("slow")]
        config.hook.pytest_deselected(items=long)
        items[:] = [item for item in items if item not in set(long)]
    runs = Counter(item.path for item in items if "start_model" in item.fixturenames)
    first = max(runs, key=runs.__getitem__, default=None)
    items.sort(key=lambda item: (item.path != first, item.path.name not in MEANWHILE, -runs[item.path]))


def pytest_unconfigure():
    gc.freeze()  # what AReaL's import left need not be collected at the exit, which takes seconds


@pytest.fixture(autouse=True)
def no_run_outlives_its_test():
    yield
    if runner := sys.modules.get("runner"):  # of the tests that start runs
        runner.kill_leftovers()


@pytest.fixture
def nvidia_smi(tmp_path, monkeypatch):
    """Puts a driver tool on the PATH that lists the given GPUs, each a CARD with what is said; clears the choice."""

    def put(*cards: dict, status: int = 0) -> None:
        folder = fake_nvidia_smi.write(tmp_path / "bin", *cards, status=status)
        monkeypatch.setenv("PATH", f"{folder}:/bin:/usr/bin")
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
def start_model():
    """Folder of the CPU recipe's start model, right now and then. Made once, a minute of one core, and kept.

    What is found there must be what was left there: a folder that differs is made again.
    """
    from filelock import FileLock

    from areal_gsm8k.paths import PROJECT
    from areal_gsm8k.sft import tiny

    kept = PROJECT / ".cache" / f"start_models-torch-{version('torch')}"
    kept.mkdir(parents=True, exist_ok=True)
    with FileLock(kept / "lock"):
        folder = tiny.start_model_folder(kept, seed=1)
        seal = folder.with_suffix(".sha256")
        if not seal.exists() or seal.read_text() != checksum(folder):
            shutil.rmtree(folder, ignore_errors=True)
            tiny.start_model(kept, seed=1)
            seal.write_text(checksum(folder))
        return folder


def checksum(folder: Path) -> str:
    """Of the names and contents of a folder's files."""
    digest = hashlib.sha256()
    for file in sorted(folder.glob("*")):
        digest.update(f"{file.name} {file.stat().st_size}\n".encode() + file.read_bytes())
    return digest.hexdigest()


@pytest.fixture(scope="module")
def spmd():
    """The environment of a single SPMD rank, and no process group left behind."""
    import torch

    from areal_gsm8k.launch.processes import _spmd_environment
    from areal_gsm8k.machine.network import free_port

    patch = pytest.MonkeyPatch()
    for name, value in (_spmd_environment(0, 1) | {"MASTER_PORT": str(free_port())}).items():
        patch.setenv(name, value)
    yield
    torch.distributed.destroy_process_group()
    patch.undo()
