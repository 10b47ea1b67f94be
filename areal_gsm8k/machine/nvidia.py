"""What `nvidia-smi` says: the driver, the CUDA version it brings, and the GPUs.

nvidia-smi --query-gpu=index,uuid,name,compute_cap,memory.total,memory.used,compute_mode --format=csv,noheader,nounits
"""

import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass

SECONDS = 20.0  # the first call after the start of a machine without persistence mode takes several
MIB = 1 << 20
FIELDS = ("index", "uuid", "name", "compute_cap", "memory.total", "memory.used", "compute_mode")

Run = Callable[[list[str], float], tuple[int, str]]  # a command and its patience in seconds: exit status, output


@dataclass(frozen=True)
class Gpu:
    index: int
    uuid: str
    name: str
    capability: tuple[int, int]
    memory: int | None  # bytes; None where nvidia-smi does not tell: memory shared with the processor
    used: int  # bytes, by whatever process; 0 where it is not told
    compute_mode: str = "Default"


@dataclass(frozen=True)
class Driver:
    """`error` is what nvidia-smi said when it is there and lists nothing; `holders` are lines `pid, program, MiB`."""

    there: bool = False
    error: str = ""
    version: str = ""
    cuda: tuple[int, int] | None = None  # the newest CUDA it runs
    gpus: tuple[Gpu, ...] = ()
    holders: tuple[str, ...] = ()


def run(command: list[str], seconds: float = SECONDS) -> tuple[int, str]:
    """Exit status and output, both streams. Raises OSError, subprocess.TimeoutExpired."""
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", timeout=seconds
    )
    return done.returncode, done.stdout.strip()


def read_driver(run: Run = run) -> Driver:
    if not shutil.which("nvidia-smi"):
        return Driver()
    try:
        status, said = run(["nvidia-smi"], SECONDS)
        if status:
            return Driver(there=True, error=_error(status, said))
        status, table = run(["nvidia-smi", f"--query-gpu={','.join(FIELDS)}", "--format=csv,noheader,nounits"], SECONDS)
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
    gpus = tuple(_gpu(line) for line in table.splitlines() if line.count(",") == len(FIELDS) - 1)
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


def _gpu(line: str) -> Gpu:
    index, uuid, name, capability, memory, used, mode = (part.strip() for part in line.split(","))
    major, _, minor = capability.partition(".")
    return Gpu(int(index), uuid, name, (int(major), int(minor)), _bytes(memory), _bytes(used) or 0, mode)


def _bytes(mib: str) -> int | None:
    """Of a number of MiB; None for anything else, such as [N/A]."""
    return int(mib) * MIB if mib.isdigit() else None


def _error(status: int, said: str) -> str:
    return " ".join(said.split()) or f"nvidia-smi: exit status {status}, without a word"
