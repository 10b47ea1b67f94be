"""Start `gsm8k train` as a user does, as a process of its own, and look at what it left behind.

Most runs start warm: as copies of a process that has imported AReaL already (warm.py). Those with `cold=True` start as
a user's do, from nothing.
"""

import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from functools import cache
from pathlib import Path
from typing import IO, ClassVar

import psutil
import warm

from areal_gsm8k.launch.processes import CPU
from areal_gsm8k.paths import CPU_OVERLAY, PROJECT

PROGRAM = [sys.executable, "-m", "areal_gsm8k", "train"]


def command(*arguments: str) -> list[str]:
    """Without what costs seconds, unless the arguments say otherwise: preflight, report, KL to the start model."""
    return [*PROGRAM, "--config", str(CPU_OVERLAY), "preflight=off", "report=off", "kl_reference=false", *arguments]


class Warm:
    """The process that others are copies of, one for each process of the tests; it ends with this one."""

    def __init__(self):
        self.control, theirs = socket.socketpair()
        os.set_inheritable(theirs.fileno(), True)
        self.log = tempfile.TemporaryFile()  # noqa: SIM115 - open as long as this process
        self.process = subprocess.Popen(
            [sys.executable, warm.__file__, str(theirs.fileno())],
            pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, stdout=self.log, stderr=subprocess.STDOUT,
            cwd=PROJECT, env=os.environ | CPU, start_new_session=True,
        )  # fmt: skip
        theirs.close()


@cache
def the_warm() -> Warm:
    return Warm()


class Copy:
    """A program run by a copy of the warm process; in use like subprocess.Popen."""

    def __init__(self, command: list[str], out: IO):
        self.args, self.returncode = command, None
        self.report, report = os.pipe()
        job = {"command": command, "environment": dict(os.environ), "folder": str(PROJECT), "session": False}
        with open(os.devnull) as nothing:
            warm.send(the_warm().control, job, [nothing.fileno(), out.fileno(), out.fileno(), report])
        os.close(report)
        self.pid = int(self._line())

    def _line(self) -> str:
        line = b""
        while not line.endswith(b"\n"):
            if not (byte := os.read(self.report, 1)):
                the_warm().log.seek(0)
                raise RuntimeError(f"the warm process ended:\n{the_warm().log.read().decode()}")
            line += byte
        return line.decode()

    def wait(self, timeout: float | None = None) -> int:
        if self.returncode is None:
            if not select.select([self.report], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(self.args, timeout)
            self.returncode = int(self._line())
            os.close(self.report)
        return self.returncode

    def poll(self) -> int | None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self.wait(0)

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def begin(command: list[str], out: IO, cold: bool) -> subprocess.Popen | Copy:
    """Start a Python program with its output and errors in a file."""
    if cold or os.name != "posix" or sys.platform == "darwin":  # macOS: a copy may not use the system's libraries
        return subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, cwd=PROJECT)
    return Copy(command, out)


def start(command: list[str], timeout: float, cold: bool = False) -> subprocess.CompletedProcess:
    """Run a Python program to the end; stdout and stderr together. It dies when it takes longer."""
    with tempfile.TemporaryFile() as out:
        process = begin(command, out, cold)
        try:
            code = process.wait(timeout)
        finally:
            process.kill()
        out.seek(0)
        return subprocess.CompletedProcess(command, code, out.read().decode())


def train(*arguments: str, timeout: float = 300, cold: bool = False) -> subprocess.CompletedProcess:
    return start(command(*arguments), timeout, cold)


class Running:
    """A run in the background, its output in a file. One that outlives its test is killed (conftest.py)."""

    started: ClassVar[list["Running"]] = []

    def __init__(
        self,
        folder: Path,
        *arguments: str,
        resume: Path | None = None,
        program: list[str] | None = None,
        cold: bool = False,
    ):
        """`arguments` are those of `train`; with `resume` of that, with `program` all that comes after its words."""
        self.output = folder / "output.txt"
        folder.mkdir(parents=True, exist_ok=True)
        with self.output.open("w") as out:
            started = [*PROGRAM, "--resume", str(resume), *arguments] if resume else command(*arguments)
            started = [*program, *arguments] if program else started
            self.process = begin(started, out, cold)
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
