"""Start `gsm8k train` as a user does, as a process of its own, and look at what it left behind."""

import subprocess
import sys
import time
from pathlib import Path
from typing import ClassVar

import psutil

from areal_gsm8k.paths import CPU_OVERLAY, PROJECT

PROGRAM = [sys.executable, "-m", "areal_gsm8k", "train"]


def command(*arguments: str) -> list[str]:
    """Without what costs seconds, unless the arguments say otherwise: preflight, report, KL to the start model."""
    return [*PROGRAM, "--config", str(CPU_OVERLAY), "preflight=off", "report=off", "kl_reference=false", *arguments]


def train(*arguments: str, timeout: float = 300) -> subprocess.CompletedProcess:
    """Run to the end; stdout and stderr together."""
    return subprocess.run(
        command(*arguments), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=PROJECT, timeout=timeout
    )


class Running:
    """A run in the background, its output in a file. One that outlives its test is killed (conftest.py)."""

    started: ClassVar[list["Running"]] = []

    def __init__(self, folder: Path, *arguments: str, resume: Path | None = None):
        self.output = folder / "output.txt"
        folder.mkdir(parents=True, exist_ok=True)
        with self.output.open("w") as out:
            started = command(*arguments) if resume is None else [*PROGRAM, "--resume", str(resume), *arguments]
            self.process = subprocess.Popen(started, stdout=out, stderr=subprocess.STDOUT, cwd=PROJECT)
        self.started.append(self)

    def text(self) -> str:
        return self.output.read_text()

    def wait_for(self, condition, seconds: float = 120) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert self.process.poll() is None, self.text()
            assert time.monotonic() < deadline, self.text()
            time.sleep(0.05)

    def descendants(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    def finish(self, seconds: float) -> int:
        """Its exit code; fails when it does not end within `seconds`."""
        return self.process.wait(seconds)


def kill_leftovers() -> None:
    """Kill every run that is still there; its children die with it."""
    while Running.started:
        Running.started.pop().process.kill()


def alive(processes: list[psutil.Process]) -> list[psutil.Process]:
    """Those still running a moment later."""
    _, left = psutil.wait_procs(processes, timeout=5)
    return [p for p in left if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]
