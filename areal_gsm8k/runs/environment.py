"""The environment of a run: Python, machine, GPUs, packages, commit. Each launch writes it; the report shows it.

environment.record(run)     # <run>/environment.json
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from areal_gsm8k import __version__
from areal_gsm8k.machine import nvidia
from areal_gsm8k.paths import PROJECT
from areal_gsm8k.runs.files import write_atomically
from areal_gsm8k.runs.run import Run

PACKAGES = ("areal", "torch", "transformers", "tokenizers", "datasets", "numpy", "sglang", "vllm")
SECONDS = 10  # that git and the like may take to answer


def record(run: Run) -> None:
    """Write environment.json, replacing that of an earlier launch."""
    write_atomically(run.environment, json.dumps(describe(), indent=2) + "\n")


def describe() -> dict:
    """python, platform, cpu, cpu_count, memory_gib, gpus, packages, git_commit and git_changed.

    cpu_count: those this process may use. gpus: one line each, name and memory. git_*: of the project's own repository;
    null where it is installed without one. Nothing here raises: a fact that cannot be found out is null.
    """
    commit, changes = _git("rev-parse", "HEAD"), _git("status", "--porcelain", "--untracked-files=no")
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": _cpu(),
        "cpu_count": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gib": _memory_gib(),
        "gpus": [f"{gpu.name}, {(gpu.memory or 0) // nvidia.MIB} MiB" for gpu in nvidia.listed()],
        "packages": {"areal-gsm8k": __version__} | {name: found for name in PACKAGES if (found := _version(name))},
        "git_commit": commit,
        "git_changed": bool(changes) if commit else None,
    }


def _cpu() -> str | None:
    """The processor's name as Linux gives it, or whatever the platform says."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or None)


def _memory_gib() -> float | None:
    try:
        import psutil
    except ImportError:
        return None
    return round(psutil.virtual_memory().total / 2**30, 1)


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _git(*arguments: str) -> str | None:
    """What git says in the project's folder, if that is a repository's root and not just somewhere inside another's."""
    root = _answer("git", "-C", str(PROJECT), "rev-parse", "--show-toplevel")
    return _answer("git", "-C", str(PROJECT), *arguments) if root and Path(root).resolve() == PROJECT else None


def _answer(*command: str) -> str | None:
    """A program's output without its last line end; None where it is missing, fails or hangs."""
    try:
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=SECONDS)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
