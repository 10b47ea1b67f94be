"""Checks of the host: operating system, Python, processor, memory, limits, processes, clock."""

import time

from areal_gsm8k.doctor.finding import Finding, fail, ok, warn
from areal_gsm8k.doctor.requested import Requested
from areal_gsm8k.machine.facts import Machine
from areal_gsm8k.machine.nvidia import GIB

PYTHONS = ((3, 11), (3, 12))
# RAM below which a run is killed, and below which that is near. The CPU recipe's processes hold 1 GiB in all; on a GPU
# both sides load CUDA's libraries and, for a moment, the model.
CPU_MEMORY = (2 * GIB, 4 * GIB)
GPU_MEMORY = (8 * GIB, 16 * GIB)
SHARED_MEMORY = GIB  # NCCL and torch need it; Docker gives 64 MiB
OPEN_FILES = 1024
ZOMBIES = 50
SKEW = 120.0  # clock error in seconds at which TLS, tokens and W&B begin to fail


def system(machine: Machine, requested: Requested) -> Finding:
    name, kind = machine.system, machine.architecture
    if name == "Windows":
        return fail(
            "native Windows: AReaL runs on Linux only",
            "In PowerShell: wsl --install -d Ubuntu; then clone and train inside it (docs/DOCKER_WINDOWS_SETUP.md). "
            "`gsm8k data`, `grade`, `eval` and train_local_simple.py work here.",
        )
    if machine.wsl == 1:
        return fail("WSL 1, which has no Linux kernel and no GPU", "In PowerShell: wsl --set-version Ubuntu 2")
    if (name, kind) not in (("Linux", "x86_64"), ("Darwin", "arm64")):
        return warn(
            f"{name} on {kind}: the package versions are locked for Linux x86_64 and macOS arm64",
            "./run may not find every package; the container in docker/ holds them all (x86_64).",
        )
    if name == "Darwin":
        return ok("macOS arm64: the CPU recipe, no SGLang")
    return ok(f"Linux {kind}{' under WSL 2' if machine.wsl else ''}")


def python(machine: Machine, requested: Requested) -> Finding:
    version = ".".join(map(str, machine.python))
    if tuple(machine.python[:2]) in PYTHONS:
        return ok(version)
    return fail(f"{version}; the packages are locked for 3.11 and 3.12", "PYTHON=python3.12 ./run doctor")


def processor(machine: Machine, requested: Requested) -> Finding:
    cores = f"{machine.cores} core{'s' if machine.cores > 1 else ''}"
    if machine.architecture == "x86_64" and machine.cpu_flags and "avx2" not in machine.cpu_flags:
        return warn(
            f"{cores}, without AVX2: torch falls back to slow code", "A virtual machine: pass the host's CPU on."
        )
    if machine.cores < 2:
        return warn(f"{cores}: server and trainer take turns", "Give the machine, container or WSL two or more.")
    return ok(cores)


def memory(machine: Machine, requested: Requested) -> Finding:
    """RAM, as far as a container may use it."""
    least, enough = GPU_MEMORY if requested.on_gpu else CPU_MEMORY
    limit = machine.memory_limit
    usable, free = min(machine.memory, limit or machine.memory), machine.memory_free
    found = f"{usable / GIB:.1f} GiB" + (" (the container's limit)" if limit else "") + f", {free / GIB:.1f} free"
    more = "docker run --memory=24g, or the limit of your job (Slurm: --mem=24G)" if limit else "Close other programs"
    if usable < least:
        return fail(f"{found}; {least / GIB:.0f} are needed", f"{more}; see docs/troubleshooting.md, killed.")
    if usable < enough or free < least:
        return warn(f"{found}; {enough / GIB:.0f} are comfortable", f"{more}; a process may be killed at the peak.")
    return ok(found)


def wsl_memory(machine: Machine, requested: Requested) -> Finding | None:
    """WSL 2 is a virtual machine that gets half of the PC's memory unless .wslconfig says otherwise."""
    if machine.wsl != 2:
        return None
    enough = (GPU_MEMORY if requested.on_gpu else CPU_MEMORY)[1]
    said = f"memory={machine.wslconfig}" if machine.wslconfig else "no memory= in .wslconfig, so half of the PC's"
    found = f"WSL may use {machine.memory / GIB:.1f} GiB ({said})"
    if machine.memory < enough:
        return warn(
            found,
            f"In %UserProfile%\\.wslconfig: [wsl2] and below it memory={enough / GIB:.0f}GB or more; "
            "then in PowerShell: wsl --shutdown",
        )
    return ok(found)


def shared_memory(machine: Machine, requested: Requested) -> Finding | None:
    size = machine.shared_memory
    if size is None:
        return None
    found = f"/dev/shm holds {size / GIB:.1f} GiB"
    if size >= SHARED_MEMORY:
        return ok(found)
    fix = "docker run --shm-size=16g (compose: shm_size), or --ipc=host; elsewhere: mount -o remount,size=16G /dev/shm"
    return fail(found, fix) if requested.on_gpu else warn(f"{found}; enough for the CPU recipe only", fix)


def open_files(machine: Machine, requested: Requested) -> Finding | None:
    limit = machine.open_files
    if limit is None:
        return None
    if 0 <= limit < OPEN_FILES:
        return warn(f"{limit} at once: many rollouts open as many connections", "ulimit -n 65535, in this shell")
    return ok("no limit" if limit < 0 else f"{limit} at once")


def processes(machine: Machine, requested: Requested) -> Finding:
    if machine.training:
        return warn(
            f"{len(machine.training)} of a run are there: {'; '.join(machine.training[:3])}",
            "They take memory and cores. If no run should be alive, end them by their numbers: kill PID",
        )
    if machine.zombies > ZOMBIES:
        return warn(
            f"{machine.zombies} zombies: nothing here reaps ended processes", "docker run --init (compose: init: true)"
        )
    return ok("none of another run")


def clock(machine: Machine, requested: Requested) -> Finding:
    skew = next((answer.skew for answer in machine.answers.values() if answer.skew is not None), None)
    set_it = "sudo hwclock -s (WSL after sleep), or sudo timedatectl set-ntp true"
    if machine.now < machine.newest_file - SKEW:
        return warn(f"{time.ctime(machine.now)}: before this project was written to the disk", set_it)
    if skew is not None and abs(skew) > SKEW:
        return warn(f"{abs(skew):.0f} s {'behind' if skew > 0 else 'ahead of'} the web's: logins may fail", set_it)
    compared = "no network to compare it with" if skew is None else f"within {abs(skew) + 1:.0f} s of the web's"
    return ok(f"{time.strftime('%Y-%m-%d %H:%M', time.localtime(machine.now))}, {compared}")


CHECKS = {
    "system": system,
    "python": python,
    "processor": processor,
    "memory": memory,
    "WSL memory": wsl_memory,
    "shared memory": shared_memory,
    "open files": open_files,
    "processes": processes,
    "clock": clock,
}
