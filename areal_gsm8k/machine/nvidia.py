"""Reads `nvidia-smi`: the driver, its CUDA version and the GPUs. No other file does.

nvidia-smi --query-gpu=index,uuid,name,compute_cap,memory.total,memory.used,compute_mode --format=csv,noheader,nounits

We use the tool and not NVML: AReaL and ./run use it too, WSL has it, and a user sees and searches for its words.
"""

import os
import re
import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass

SECONDS = 20.0  # the first call after the start of a machine without persistence mode takes several
MIB, GIB = 1 << 20, 1 << 30
FIELDS = ("index", "uuid", "name", "compute_cap", "memory.total", "memory.used", "compute_mode")
QUERY = ["nvidia-smi", f"--query-gpu={','.join(FIELDS)}", "--format=csv,noheader,nounits"]

Run = Callable[[list[str], float], tuple[int, str]]  # a command and its patience in seconds: exit status, output


@dataclass(frozen=True)
class Gpu:
    index: int
    uuid: str
    name: str
    capability: tuple[int, int]
    memory: int | None  # bytes; None where nvidia-smi does not tell: memory shared with the processor
    used: int  # bytes, by whatever process; 0 where nvidia-smi does not tell
    compute_mode: str = "Default"


@dataclass(frozen=True)
class Driver:
    """`error` is nvidia-smi's message when it exists and lists nothing; `holders` are lines `pid, program, MiB`."""

    there: bool = False
    error: str = ""
    version: str = ""
    cuda: tuple[int, int] | None = None  # the newest CUDA that the driver runs
    gpus: tuple[Gpu, ...] = ()
    holders: tuple[str, ...] = ()


def run(command: list[str], seconds: float = SECONDS) -> tuple[int, str]:
    """Exit status and output, both streams. Raises OSError, subprocess.TimeoutExpired."""
    done = subprocess.run(
        command,
        check=False,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        timeout=seconds,
    )
    return done.returncode, done.stdout.strip()


def visible(ids: Sequence[str], variable: str | None) -> list[str]:
    """Those of the GPUs `ids` that CUDA_VISIBLE_DEVICES leaves, each by its number, a part of one (MIG) by its name.

    CUDA reads numbers and ids, which may be shortened, up to the first that does not exist; so does this.
    """
    if variable is None:
        return [str(number) for number in range(len(ids))]
    left: list[str] = []
    for name in (name.strip() for name in variable.split(",")):
        found = [str(i) for i, full in enumerate(ids) if name and (name == str(i) or full.startswith(name))]
        if name.startswith("MIG-") and ids:
            found = [name]
        if len(found) != 1 or found[0] in left:
            break
        left += found
    return left


def usable(gpus: Sequence[Gpu], variable: str | None) -> list[Gpu]:
    """Those of the GPUs that CUDA_VISIBLE_DEVICES leaves, in its order; parts of one (MIG) are not among them."""
    numbered = {str(gpu.index): gpu for gpu in gpus}
    return [numbered[name] for name in visible([gpu.uuid for gpu in gpus], variable) if name in numbered]


def listed(run: Run = run) -> list[Gpu]:
    """The GPUs of this machine in the order of their numbers; none where the tool is missing, fails or hangs."""
    if not shutil.which("nvidia-smi"):
        return []
    try:
        status, table = run(QUERY, SECONDS)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return [] if status else _gpus(table)


def ours() -> list[str]:
    """The GPUs this process may use, as `visible` names them."""
    return visible([gpu.uuid for gpu in listed()], os.environ.get("CUDA_VISIBLE_DEVICES"))


def read_driver(run: Run = run) -> Driver:
    """Everything the doctor reports of the driver. Raises OSError."""
    if not shutil.which("nvidia-smi"):
        return Driver()
    try:
        status, said = run(["nvidia-smi"], SECONDS)
        if status:
            return Driver(there=True, error=_error(status, said))
        status, table = run(QUERY, SECONDS)
    except subprocess.TimeoutExpired:
        return Driver(there=True, error=f"nvidia-smi did not answer in {SECONDS:.0f} s")
    version = re.search(r"Driver Version:\s*([\d.]+)", said)
    cuda = re.search(r"CUDA\D*Version:\s*(\d+)\.(\d+)", said)
    found = {
        "version": version[1] if version else "",
        "cuda": (int(cuda[1]), int(cuda[2])) if cuda else None,
    }
    if status:
        return Driver(there=True, error=_error(status, table), **found)
    gpus = tuple(_gpus(table))
    _, holders = run(
        ["nvidia-smi", "--query-compute-apps=pid,process_name,used_memory", "--format=csv,noheader"], SECONDS
    )
    return Driver(
        there=True,
        error="" if gpus else " ".join(table.split()) or "no devices were found",
        gpus=gpus,
        holders=tuple(line for line in holders.splitlines() if line[:1].isdigit()),
        **found,
    )


def _gpus(table: str) -> list[Gpu]:
    return [_gpu(line) for line in table.splitlines() if line.count(",") == len(FIELDS) - 1]


def _gpu(line: str) -> Gpu:
    index, uuid, name, capability, memory, used, mode = (part.strip() for part in line.split(","))
    major, _, minor = capability.partition(".")
    return Gpu(int(index), uuid, name, (int(major), int(minor)), _bytes(memory), _bytes(used) or 0, mode)


def _bytes(mib: str) -> int | None:
    """The bytes of a number of MiB; None for anything else, such as [N/A]."""
    return int(mib) * MIB if mib.isdigit() else None


def _error(status: int, said: str) -> str:
    return " ".join(said.split()) or f"nvidia-smi: exit status {status}, without a word"
