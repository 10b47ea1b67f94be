"""Child processes that never outlive us and never die unnoticed.

A `Child` writes to a log file of its own; when it dies, an error shows the command, the exit and the log's tail. The
child side calls `die_with_parent`, which ends the process when its parent is gone, however the parent ended.
"""

import contextlib
import ctypes
import faulthandler
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil

TAIL_LINES = 40  # of a child's log
WORDS = 30  # lines of another log at the end of a child's
PARENT, KERNEL = "AREAL_GSM8K_PARENT", "AREAL_GSM8K_PARENT_DEATH_SIGNAL"  # environment of a child
WATCH_SECONDS = 0.5
STACK_SECONDS = 0.5  # a process writes its stacks in much less, unless it is stopped
PR_SET_PDEATHSIG = 1  # <linux/prctl.h>


class ChildDied(RuntimeError):
    """A child process ended too early; the message says how, and shows the tail of the log."""


def die_with_parent(take_children: bool = False) -> bool:
    """In a child: end this process at once when the parent is gone. Does nothing (False) when a user started it.

    A thread looks twice a second, on any system; with `take_children` it kills our own children too. Without that, on
    Linux, the kernel sends SIGKILL as well; the kernel watches the *thread* that started us, so the parent asks for
    SIGKILL only when it starts us from its main thread.
    """
    parent = os.environ.pop(PARENT, None)
    if parent is None:
        return False
    if hasattr(signal, "SIGUSR1"):
        faulthandler.register(signal.SIGUSR1, all_threads=True)  # the parent may ask for our stacks
    if os.environ.pop(KERNEL, None) and sys.platform == "linux" and not take_children:
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)

    def watch() -> None:
        while _is_parent(int(parent)):
            time.sleep(WATCH_SECONDS)
        if take_children:
            _kill(psutil.Process().children(recursive=True))
        os._exit(1)

    threading.Thread(target=watch, name="parent-watch", daemon=True).start()
    return True


def _is_parent(pid: int) -> bool:
    """On POSIX an orphan is seen by its new parent, so a reused pid cannot fool it."""
    return os.getppid() == pid if os.name == "posix" else psutil.pid_exists(pid)


def _kill(processes: list[psutil.Process]) -> None:
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


def last_words(log: Path) -> str:
    """The end of the log of a process that a child of ours started, for the end of that child's own log."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()[-WORDS:]
    return "\n".join([f"Its log, {log}, ends:", *(f"  {line}" for line in lines)])


class Child:
    """A child process in a session of its own: Ctrl-C does not reach it, and stopping it takes its children along."""

    def __init__(self, name: str, command: list[str], log: Path | str, environment: dict[str, str] | None = None):
        self.name, self.command, self.log = name, command, Path(log)
        self.log.parent.mkdir(parents=True, exist_ok=True)
        self._family: set[psutil.Process] = set()
        ours = {PARENT: str(os.getpid()), "PYTHONUNBUFFERED": "1"}
        if threading.current_thread() is threading.main_thread():
            ours[KERNEL] = "1"
        with self.log.open("ab") as out:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=out,
                stderr=subprocess.STDOUT,
                env=os.environ | (environment or {}) | ours,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self.process.pid

    def send_line(self, line: str) -> None:
        """Write one line to the child's standard input."""
        self.process.stdin.write(line.encode() + b"\n")
        self.process.stdin.flush()

    def exit_code(self) -> int | None:
        """None while the child runs; negative when a signal ended it."""
        return self.process.poll()

    def ending(self) -> str | None:
        """How the child ended, for a person; None while it runs."""
        code = self.exit_code()
        if code is None:
            return None
        return f"was ended by {_signal_name(-code)}" if code < 0 else f"exited with code {code}"

    def check(self) -> None:
        """Raise ChildDied when the child is no longer running."""
        if how := self.ending():
            raise ChildDied(self.report(how))

    def report(self, what: str) -> str:
        """`what` happened to the child, its command, and the path and tail of its log, for a person."""
        return (
            f"{self.name} {what}.\n  command: {shlex.join(self.command)}\n  log: {self.log}, which ends:\n{self.tail()}"
        )

    def tail(self) -> str:
        """The last lines of the log."""
        try:
            with self.log.open("rb") as file:
                file.seek(max(0, self.log.stat().st_size - 16384))
                lines = file.read().decode(errors="replace").splitlines()
        except OSError as error:
            return f"(not readable: {error})"
        return "\n".join(f"    {line}" for line in lines[-TAIL_LINES:]) or "    (empty)"

    def stacks(self) -> str:
        """Make the child write the stacks of its threads to its log, and return `report` with the log's tail."""
        if self.exit_code() is None and hasattr(signal, "SIGUSR1"):
            self.process.send_signal(signal.SIGUSR1)
            time.sleep(STACK_SECONDS)
        return self.report("is running" if self.exit_code() is None else "has ended")

    def note_family(self) -> None:
        """Note the descendants there are now: `stop` ends them even when this process was killed before."""
        with contextlib.suppress(psutil.NoSuchProcess):
            self._family |= set(psutil.Process(self.pid).children(recursive=True))  # some are in other sessions

    def stop(self, patience: float = 3.0) -> None:
        """End the process and its children: SIGTERM, then SIGKILL after `patience` seconds. Safe to call twice."""
        self.note_family()
        self._signal_all(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(patience)
        self._signal_all(getattr(signal, "SIGKILL", signal.SIGTERM))
        _kill(list(self._family))
        self.process.wait()
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()

    def _signal_all(self, number: signal.Signals) -> None:
        if os.name == "posix":
            with contextlib.suppress(ProcessLookupError, PermissionError):  # already gone
                os.killpg(self.pid, number)
        elif self.process.poll() is None:
            self.process.terminate()


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
