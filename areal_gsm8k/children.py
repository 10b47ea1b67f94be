"""Child processes that never outlive us and never die unnoticed.

A `Child` writes to a log file of its own; its death is reported with the command, how it ended and the log's tail. On
Linux the kernel kills it when its parent dies; elsewhere, and for anything the kernel misses, the child watches its
standard input, which the parent holds open (`die_with_parent`, called by the child).
"""

import ctypes
import os
import shlex
import signal
import subprocess
import sys
import threading
from pathlib import Path

TAIL_LINES = 25
PR_SET_PDEATHSIG = 1  # <linux/prctl.h>


class ChildDied(RuntimeError):
    """A child process ended that should not have; the message tells how and shows its log's tail."""


def die_with_parent() -> None:
    """In a child: have the kernel end this process when its parent ends (Linux), and leave at once if it already has."""
    parent = os.environ.get("AREAL_GSM8K_PARENT")
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if parent and os.getppid() != int(parent):
        os._exit(1)


def leave_at_end_of_input() -> None:
    """In a child: end this process when standard input closes, which it does when the parent is gone."""

    def watch():
        while os.read(0, 4096):  # not sys.stdin: its lock would block the interpreter's end
            pass
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name="parent-watch").start()


class Child:
    """A child process in a process group of its own, so that stopping it takes its own children along."""

    def __init__(self, name: str, command: list[str], log: Path, environment: dict[str, str] | None = None):
        self.name, self.command, self.log = name, command, log
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as out:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=out,
                stderr=subprocess.STDOUT,
                env=os.environ | (environment or {}) | {"AREAL_GSM8K_PARENT": str(os.getpid())},
                start_new_session=True,  # Ctrl-C reaches us only; we end the children in order
            )

    @property
    def pid(self) -> int:
        return self.process.pid

    def send_line(self, line: str) -> None:
        """Write one line to the child's standard input, which stays open."""
        self.process.stdin.write(line.encode() + b"\n")
        self.process.stdin.flush()

    def exit_code(self) -> int | None:
        """None while it runs; negative when a signal ended it."""
        return self.process.poll()

    def tail(self) -> str:
        """The last lines of the log."""
        lines = self.log.read_bytes().decode(errors="replace").splitlines() if self.log.exists() else []
        return "\n".join(lines[-TAIL_LINES:])

    def obituary(self) -> str:
        """How it ended, for a person."""
        code = self.exit_code()
        how = f"was ended by {signal.Signals(-code).name}" if code and code < 0 else f"exited with code {code}"
        return (
            f"{self.name} {how}.\n  command: {shlex.join(self.command)}\n  log: {self.log}, which ends:\n{self.tail()}"
        )

    def check(self) -> None:
        """Raise ChildDied when it is no longer running."""
        if self.exit_code() is not None:
            raise ChildDied(self.obituary())

    def stop(self, patience: float = 3.0) -> None:
        """End the process and its group: SIGTERM, then SIGKILL after `patience` seconds. Safe to call twice."""
        self._signal_group(signal.SIGTERM)
        try:
            self.process.wait(patience)
        except subprocess.TimeoutExpired:
            pass
        self._signal_group(signal.SIGKILL)
        self.process.wait()
        self.process.stdin.close()

    def _signal_group(self, number: signal.Signals) -> None:
        try:
            os.killpg(self.pid, number)
        except (ProcessLookupError, PermissionError):  # already gone
            pass
