"""`./run train` as on a machine with one NVIDIA GPU, on one that has none: from the first line to exit 0, and failures.

AReaL's launcher, the wrapper of its server, torchrun and the trainer are real; the driver's tool and SGLang are
stand-ins (stand_ins/). Every failure must put its cause's own words on the console within ten seconds, and leave no
process.
"""

import os
import signal
import sys
import time
from pathlib import Path

import psutil
import pytest
from areal_here import needs_areal
from runner import Running

from areal_gsm8k.runs.run import Run

pytestmark = [needs_areal, pytest.mark.run]

STAND_INS = Path(__file__).parent / "stand_ins"
SECONDS = 10  # from a failure to the end
CARD = {"name": "NVIDIA GeForce RTX 4090", "compute_cap": "8.9", "memory.total": 24564}


class Started(Running):
    """A run by the path for one GPU."""

    def __init__(self, folder: Path, model: Path, *arguments: str):
        self.folder, self.run = folder, Run(folder / "tiny-grpo" / "t")
        super().__init__(
            folder / "output", "--config", "configs/backends/sglang.yaml", f"actor.path={model}", f"runs_dir={folder}",
            "trial_name=t", "data.dev_rows=16", "train_dataset.batch_size=4", "gconfig.n_samples=4",
            "expected_band=null", "evaluator.freq_steps=0", *arguments, cold=True,
        )  # fmt: skip

    def family(self) -> list[psutil.Process]:
        """All processes that name the run's folder, but the tests themselves."""
        me = os.getpid()
        listed = psutil.process_iter(["cmdline"])
        return [one for one in listed if str(self.folder) in " ".join(one.info["cmdline"] or []) and one.pid != me]

    def in_step(self, number: int) -> bool:
        return self.run.status().get("step", 0) >= number

    def logs(self) -> list[Path]:
        return list(self.run.root.rglob("*.log"))

    def said_at(self, words: str) -> float:
        """When the first log that holds the words was last written, time.time()."""
        return min(file.stat().st_mtime for file in self.logs() if words in file.read_text(errors="replace"))


@pytest.fixture
def begin(pytestconfig, nvidia_smi, monkeypatch, tmp_path, start_model):
    """Starts a run; at the end of the test nothing of it is left."""
    if not pytestconfig.getoption("--gpu-path"):
        pytest.skip("four minutes: ./run test --gpu-path tests/gpu_path")
    nvidia_smi(CARD)
    monkeypatch.setenv("PATH", os.pathsep.join([os.environ["PATH"].split(":")[0], str(Path(sys.executable).parent),
                                                 "/usr/local/bin", "/usr/bin", "/bin"]))  # fmt: skip
    monkeypatch.setenv("PYTHONPATH", str(STAND_INS))
    begun = []

    def start(*arguments: str, **environment: str) -> Started:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        begun.append(Started(tmp_path, start_model, *arguments))
        return begun[-1]

    yield start
    for run in begun:
        _, left = psutil.wait_procs(run.family(), timeout=5)
        assert [process.cmdline() for process in left if process.is_running()] == []


def test_three_steps(begin):
    run = begin("total_train_steps=3")
    assert run.finish(300) == 0, run.text()
    rows = [row for row in run.run.read_metrics() if "reward" in row]
    assert [row["step"] for row in rows] == [1, 2, 3]
    assert all(row["logprob_gap"] is None or row["logprob_gap"] < 1e-4 for row in rows) and rows[0]["logprob_gap"]
    assert {"llm_server.log", "trainer.log"} <= {file.name for file in run.logs()}  # by AReaL's launcher


def test_a_server_that_fails_at_its_import(begin):
    words = "Could not find CUDA installation. Please set CUDA_HOME environment variable."
    run = begin(SERVER_FAILS=words)
    assert run.finish(120) == 1, run.text()
    assert time.time() - run.said_at(words) < SECONDS
    assert words in run.text() and "The rollout server ended while it started" in run.text()


def test_a_trainer_without_memory(begin):
    words = "CUDA out of memory. Tried to allocate 1.49 GiB."
    run = begin(TRAINER_FAILS=words)
    assert run.finish(200) == 1, run.text()
    assert time.time() - run.said_at(words) < SECONDS
    assert words in run.text() and "The trainer ended first" in run.text()


def test_a_server_that_is_killed(begin):
    run = begin()
    run.wait_for(lambda: run.in_step(2), 200)
    servers = [process for process in run.descendants() if "sglang_stand_in" in " ".join(process.cmdline())]
    assert servers
    for server in servers:
        server.send_signal(signal.SIGKILL)
    killed = time.time()
    assert run.finish(60) == 1, run.text()
    assert time.time() - killed < SECONDS
    assert "The rollout server ended first" in run.text()


def test_areals_launcher_is_killed(begin):
    run = begin()
    run.wait_for(lambda: run.in_step(2), 200)
    (launcher,) = [p for p in run.descendants() if "areal_gsm8k.training.areal_launcher" in p.cmdline()]
    launcher.send_signal(signal.SIGKILL)
    killed = time.time()
    assert run.finish(60) == 1, run.text()
    assert time.time() - killed < SECONDS
    assert "AReaL's launcher was ended by SIGKILL" in run.text()
    assert not [process for process in run.family() if process.is_running()]
