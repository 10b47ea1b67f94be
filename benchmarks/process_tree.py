"""What a process and all its children take: CPU seconds and memory, with the CPU seconds of everything else beside.

    tree = ProcessTree(process.pid)
    while process.poll() is None:
        looked = tree.look()            # often enough to miss no child's end
    looked.cpu, looked.memory, looked.others

Memory is the sum of the processes' PSS, in which a page that several share counts once in all; where the system does
not tell it (macOS), of their USS, without shared pages.
"""

import time
from typing import NamedTuple

import psutil


class Look(NamedTuple):
    """time: of time.monotonic. cpu, others: CPU seconds of the tree, and of all else. memory: bytes."""

    time: float
    cpu: float
    memory: int
    others: float


class ProcessTree:
    """A process and every child of it ever seen."""

    def __init__(self, pid: int):
        self.process = psutil.Process(pid)
        self._seen: dict[tuple[int, float], float] = {}

    def look(self, memory: bool = True) -> Look:
        """CPU seconds of those that ended count as last seen. memory: whether to sum it, which takes longest."""
        processes = self.processes()
        for process in processes:
            try:
                times = process.cpu_times()
                self._seen[process.pid, process.create_time()] = times.user + times.system
            except psutil.Error:
                continue
        cpu = sum(self._seen.values())
        held = sum(map(_memory, processes)) if memory else 0
        return Look(time.monotonic(), cpu, held, _busy() - cpu)

    def processes(self) -> list[psutil.Process]:
        try:
            return [self.process, *self.process.children(recursive=True)]
        except psutil.Error:
            return []


def _memory(process: psutil.Process) -> int:
    try:
        found = process.memory_full_info()
    except psutil.Error:
        return 0
    return getattr(found, "pss", found.uss)


def _busy() -> float:
    """CPU seconds of the whole machine since it was started."""
    times = psutil.cpu_times()
    return sum(times) - times.idle - times.iowait - times.guest - times.guest_nice
