"""A training run of either side, watched from outside: wall and CPU seconds a step, peak memory, what others took.

    measured = measure(command, log, lambda: steps_on_file)

CPU seconds a step are counted between steps whose rows came on file, over stretches in which nothing but training
happened: no evaluation and no saving of weights.
"""

import itertools
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from areal_gsm8k.paths import PROJECT
from benchmarks.process_tree import Look, ProcessTree

EVERY = 0.2  # seconds between two looks
MEMORY_EVERY = 5  # looks; the sum of all processes' pages takes long


def begin(command: list[str], out, environment: dict[str, str] | None) -> subprocess.Popen:
    """Start a program in the project's folder, its output and errors in a file. Tests put their own in its place."""
    return subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, cwd=PROJECT, env=environment)


@dataclass(frozen=True)
class Measured:
    """wall, cpu: seconds of the whole program; peak: bytes; others: share of the machine that other programs took."""

    wall: float
    cpu: float
    peak: int
    others: float
    looks: list[tuple[int, Look]]  # the newest step on file at each look, 0 when training begins, -1 before

    def cpu_a_step(self, stretches: list[tuple[int, int]]) -> float | None:
        """Mean CPU seconds of the steps first + 1 to last, over stretches (first, last); None without such steps."""
        spent = steps = 0.0
        for first, last in stretches:
            ends = [next((look for done, look in self.looks if done >= step), None) for step in (first, last)]
            if None not in ends and last > first:
                spent, steps = spent + ends[1].cpu - ends[0].cpu, steps + last - first
        return spent / steps if steps else None


def stretches(kept: list[int], last: int) -> list[tuple[int, int]]:
    """Stretches of steps between those that keep weights, as `cpu_a_step` takes them."""
    ends = [-1, *(step for step in kept if step <= last), last + 1]
    return [(before + 1, after - 1) for before, after in itertools.pairwise(ends)]


def measure(
    command: list[str], log: Path, steps: Callable[[], int], environment: dict[str, str] | None = None
) -> Measured:
    """Run a program to its end. Exits when it fails; then the log tells why."""
    log.parent.mkdir(parents=True, exist_ok=True)
    looks: list[tuple[int, Look]] = []
    peak = 0
    with log.open("w") as out:
        began = time.monotonic()
        process = begin(command, out, environment)
        try:
            tree = ProcessTree(process.pid)
            while process.poll() is None:
                with suppress(psutil.Error):  # a process that is just ending
                    done, looked = steps(), tree.look(memory=len(looks) % MEMORY_EVERY == 0)
                    looks.append((done, looked))
                    peak = max(peak, looked.memory)
                time.sleep(EVERY)
        finally:
            process.kill()
    wall = time.monotonic() - began
    if process.returncode:
        sys.exit(f"{' '.join(command)} ended with {process.returncode}: see {log}")
    first, last = looks[0][1], looks[-1][1]
    others = (last.others - first.others) / max(last.time - first.time, EVERY) / (psutil.cpu_count() or 1)
    return Measured(wall, last.cpu, peak, others, looks)
