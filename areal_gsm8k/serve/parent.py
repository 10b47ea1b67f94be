"""A child that must not outlive its parent: the watch the server keeps over the process that started it."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Callable

INTERVAL = 0.5  # seconds between two looks
PR_SET_PDEATHSIG = 1  # linux/prctl.h


def watcher(pid: int) -> Callable[[], bool]:
    """A function that says whether ``pid`` is still there.

    On POSIX an orphan knows by its new parent, which a reused pid cannot fool. A grandparent, and any process on
    Windows, is looked up by its pid.
    """
    if os.name == "posix" and os.getppid() == pid:
        return lambda: os.getppid() == pid
    import psutil

    return lambda: psutil.pid_exists(pid)


def die_with(pid: int, kernel: bool) -> None:
    """End this process at once when ``pid``, which started it, is gone.

    A thread looks twice a second, on any system. ``kernel`` (Linux) also asks the kernel for SIGKILL; that watches the
    *thread* that started us, so the parent only asks for it when that was its main thread.
    """
    if kernel and sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)

    alive = watcher(pid)

    def watch() -> None:
        while alive():
            time.sleep(INTERVAL)
        os._exit(1)

    threading.Thread(target=watch, name="parent-watch", daemon=True).start()
