"""Checks of the disks: the project, the runs and the hub's cache, their file systems and free space."""

from functools import partial
from pathlib import Path

from areal_gsm8k.doctor.finding import Finding, fail, ok, warn
from areal_gsm8k.doctor.requested import Requested
from areal_gsm8k.machine.facts import Machine
from areal_gsm8k.machine.nvidia import GIB

WINDOWS = ("9p", "drvfs", "v9fs")  # a Windows drive seen from WSL
# Free bytes below which a run fails, and below which it may. A recovery point holds weights and both moments of Adam,
# 12 bytes a parameter in float32, so 6 GB for 0.5B; two points stay while a third is written, beside the checkpoints.
GPU_ROOM = (10 * GIB, 40 * GIB)
CPU_ROOM = (1 * GIB, 3 * GIB)
CACHE_ROOM = (2 * GIB, 10 * GIB)
MOVES = {
    "project": "Clone it again inside Linux: cd ~ && git clone ...",
    "runs": "runs_dir=~/runs, or the project itself inside Linux",
    "hub cache": "export HF_HOME=~/.cache/huggingface",
}


def folder(place: str, machine: Machine, requested: Requested) -> Finding | None:
    """Check that one of the three folders is writable, is not on a Windows drive and has room."""
    if place == "hub cache" and not requested.from_hub:
        return None
    path = {
        "project": machine.project,
        "runs": Path(requested.get("runs_dir") or "runs"),
        "hub cache": machine.hub_cache,
    }[place]
    least, enough = CACHE_ROOM if place == "hub cache" else GPU_ROOM if requested.on_gpu else CPU_ROOM
    disk = machine.disk(path)
    found = f"{path}: {disk.free / GIB:.0f} GiB free{f' on {disk.kind}' if disk.kind else ''}"
    if not disk.writable and place != "project":
        return fail(f"{path}: {disk.path} may not be written", f"sudo chown -R $USER {disk.path}, or {MOVES[place]}")
    if machine.wsl and disk.kind in WINDOWS:
        return warn(f"{found}, a Windows drive: every file costs many times as long", MOVES[place])
    if place == "project":
        return ok(found)
    if disk.kind == "tmpfs":
        return warn(f"{found}: in memory, and gone with the next start", MOVES[place])
    more = "Free some, e.g. old checkpoints (runs/*/*/recovery, runs/*/*/checkpoints) and `hf cache prune`"
    if disk.free < least:
        return fail(f"{found}; {least / GIB:.0f} are needed", f"{more}; or {MOVES[place]}")
    if disk.free < enough:
        return warn(f"{found}; {enough / GIB:.0f} are comfortable", f"{more}; or {MOVES[place]}")
    return ok(found)


CHECKS = {place: partial(folder, place) for place in MOVES}
