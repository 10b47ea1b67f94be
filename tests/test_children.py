import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from areal_gsm8k.children import Child, ChildDied, die_with_parent


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def wait_until(condition, seconds=20.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.02)


def died(child) -> str:
    with pytest.raises(ChildDied) as death:
        child.check()
    return str(death.value)


def test_a_death_tells_command_code_log_and_its_tail(tmp_path):
    child = Child("worker", python("print('last words'); raise SystemExit(7)"), tmp_path / "worker.log")
    child.process.wait()
    for said in ("worker exited with code 7", "last words", str(tmp_path / "worker.log"), "raise SystemExit"):
        assert said in died(child)
    child.stop()


def test_a_signal_is_named(tmp_path):
    child = Child("worker", python("import time; time.sleep(60)"), tmp_path / "worker.log")
    os.kill(child.pid, signal.SIGKILL)
    child.process.wait()
    assert "ended by SIGKILL" in died(child)
    child.stop()


def test_stop_takes_grandchildren_and_those_who_ignore_sigterm_along(tmp_path):
    code = """
import signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
grandchild = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
print(grandchild.pid, flush=True)
time.sleep(60)
"""
    child = Child("worker", python(code), tmp_path / "worker.log")
    wait_until(lambda: child.log.read_text().strip())
    grandchild = int(child.log.read_text())
    child.stop(patience=0.3)
    assert child.exit_code() == -signal.SIGKILL
    wait_until(lambda: not psutil.pid_exists(grandchild) or psutil.Process(grandchild).status() == "zombie")
    child.stop()  # twice is safe


def test_a_family_that_was_noted_is_ended_after_its_parent_was_killed(tmp_path):
    """The grandchild lives in a session of its own, so nothing else leads to it."""
    code = """
import subprocess, sys, time
sleeper = [sys.executable, "-c", "import time; time.sleep(60)"]
print(subprocess.Popen(sleeper, start_new_session=True).pid, flush=True)
time.sleep(60)
"""
    child = Child("launcher", python(code), tmp_path / "launcher.log")
    wait_until(lambda: child.log.read_text().strip())
    grandchild = psutil.Process(int(child.log.read_text()))
    child.note_family()
    child.process.kill()
    child.process.wait()
    assert grandchild.is_running()
    child.stop()
    wait_until(lambda: not grandchild.is_running() or grandchild.status() == "zombie")


def test_children_die_with_a_killed_parent(tmp_path):
    worker = """
import os, time
from areal_gsm8k.children import die_with_parent
assert die_with_parent()
print(os.getpid(), flush=True)
time.sleep(60)
"""
    parent_code = f"""
import sys, time
from areal_gsm8k.children import Child
child = Child("worker", [sys.executable, "-c", {worker!r}], {str(tmp_path / "w.log")!r})
time.sleep(60)
"""
    parent = subprocess.Popen(python(parent_code))
    log = tmp_path / "w.log"
    wait_until(lambda: log.exists() and log.read_text().strip())
    pid = int(log.read_text())
    parent.kill()
    parent.wait()
    wait_until(lambda: not psutil.pid_exists(pid) or psutil.Process(pid).status() == "zombie", seconds=5)


def test_a_program_started_by_a_user_watches_nobody(monkeypatch):
    monkeypatch.delenv("AREAL_GSM8K_PARENT", raising=False)
    assert die_with_parent() is False
