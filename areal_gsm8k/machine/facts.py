"""Facts about this machine. Each is read once, when a check first asks for it.

A reader that fails raises, and the check that asked becomes a warning with the reason. Tests simulate machines by
setting a fact beforehand, `vars(machine)["cores"] = 1`.
"""

import os
import platform
import re
import shutil
import sys
import time
from dataclasses import dataclass
from functools import cached_property
from importlib import metadata
from pathlib import Path

from areal_gsm8k.machine import network, nvidia
from areal_gsm8k.machine.network import WebAnswer
from areal_gsm8k.machine.nvidia import Driver
from areal_gsm8k.paths import PROJECT

OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE")
OURS = re.compile(r"areal_gsm8k\.(training|launch|serve)|train_grpo\.py|areal\.infra|sglang\S*launch_server")
TORCH = """
import json, torch
there = torch.cuda.is_available()
print(json.dumps({"count": torch.cuda.device_count() if there else 0, "archs": torch.cuda.get_arch_list()}))
"""


@dataclass(frozen=True)
class Disk:
    path: Path  # the nearest folder that exists
    kind: str  # file system, "" where it is unknown
    free: int  # bytes
    writable: bool


class Machine:
    def __init__(self, root: Path = Path("/"), environment: dict[str, str] | None = None):
        self.root = root  # of /proc, /sys and /mnt
        self.environment = dict(os.environ if environment is None else environment)

    # The host

    @cached_property
    def system(self) -> str:
        """Linux, Darwin or Windows."""
        return platform.system()

    @cached_property
    def architecture(self) -> str:
        return {"AMD64": "x86_64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())

    @cached_property
    def wsl(self) -> int:
        """1 or 2 under the Windows Subsystem for Linux, else 0."""
        version = self._text("proc/version").lower()
        return 2 if "wsl2" in version else int("microsoft" in version)

    @cached_property
    def python(self) -> tuple[int, int, int]:
        return sys.version_info[:3]

    @cached_property
    def cores(self) -> int:
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

    @cached_property
    def cpu_flags(self) -> set[str]:
        """The processor's names of its instruction sets, e.g. avx2; empty where they cannot be read."""
        found = re.search(r"^(?:flags|Features)\s*:(.*)$", self._text("proc/cpuinfo"), re.MULTILINE)
        return set(found[1].split()) if found else set()

    @cached_property
    def memory(self) -> int:
        """Bytes of RAM."""
        import psutil

        return psutil.virtual_memory().total

    @cached_property
    def memory_free(self) -> int:
        """Bytes that are available without swapping."""
        import psutil

        return psutil.virtual_memory().available

    @cached_property
    def memory_limit(self) -> int | None:
        """Bytes a container, or another cgroup, may use; None without a limit."""
        for name in ("sys/fs/cgroup/memory.max", "sys/fs/cgroup/memory/memory.limit_in_bytes"):
            text = self._text(name).strip()
            if text.isdigit() and int(text) < self.memory:
                return int(text)
        return None

    @cached_property
    def wslconfig(self) -> str | None:
        """The memory a .wslconfig of this PC's users gives WSL2, as written; None where no file names any."""
        for file in sorted((self.root / "mnt/c/Users").glob("*/.wslconfig")):
            found = re.search(r"^\s*memory\s*=\s*(\S+)", self._text(file), re.MULTILINE | re.IGNORECASE)
            if found:
                return found[1]
        return None

    @cached_property
    def shared_memory(self) -> int | None:
        """Bytes of /dev/shm; None where there is none."""
        folder = self.root / "dev/shm"
        return shutil.disk_usage(folder).total if folder.is_dir() else None

    @cached_property
    def open_files(self) -> int | None:
        """Files a process may open, None on Windows."""
        if self.system == "Windows":
            return None
        import resource

        return resource.getrlimit(resource.RLIMIT_NOFILE)[0]

    @cached_property
    def training(self) -> list[str]:
        """Processes of this project, AReaL or SGLang, as `pid command`."""
        import psutil

        family = {os.getpid(), *(parent.pid for parent in psutil.Process().parents())}
        found = []
        for process in psutil.process_iter(["pid", "cmdline"]):
            command = " ".join(process.info["cmdline"] or [])
            if process.info["pid"] not in family and OURS.search(command):
                found.append(f"{process.info['pid']} {command[:60]}")
        return found

    @cached_property
    def zombies(self) -> int:
        """Processes that ended and that no parent has waited for."""
        import psutil

        return sum(p.info["status"] == psutil.STATUS_ZOMBIE for p in psutil.process_iter(["status"]))

    @cached_property
    def now(self) -> float:
        return time.time()

    @cached_property
    def newest_file(self) -> float:
        """When the project's files were last written, time.time()."""
        return max(file.stat().st_mtime for file in Path(__file__).parent.glob("*.py"))

    # GPUs and compilers

    @cached_property
    def driver(self) -> Driver:
        return nvidia.read_driver()

    @cached_property
    def nvidia_device(self) -> bool:
        """Whether the bus, or WSL, shows an NVIDIA card, driver or not."""
        vendors = (self.root / "sys/bus/pci/devices").glob("*/vendor")
        displays = (file.parent for file in vendors if self._text(file).strip() == "0x10de")
        return any(self._text(device / "class").startswith("0x03") for device in displays)

    @cached_property
    def torch_sees(self) -> dict:
        """{"count": GPUs, "archs": ["sm_80", ...]} from torch, in a process of its own. Raises RuntimeError."""
        import json

        status, said = nvidia.run([sys.executable, "-W", "ignore", "-c", TORCH], 120)
        if status:
            raise RuntimeError(said.splitlines()[-1] if said else f"exit status {status}")
        return json.loads(said.splitlines()[-1])

    @cached_property
    def nvcc(self) -> str | None:
        """CUDA's compiler, where flashinfer and SGLang look for it."""
        home = self.environment.get("CUDA_HOME") or self.environment.get("CUDA_PATH")
        candidates = (
            [Path(home) / "bin/nvcc"] if home else [self._program("nvcc"), self.root / "usr/local/cuda/bin/nvcc"]
        )
        return next((str(path) for path in candidates if path and Path(path).exists()), None)

    @property
    def nvcc_target(self) -> Path:
        """The file behind links to nvcc; only where there is one."""
        return Path(self.nvcc or "").resolve()

    @cached_property
    def nvcc_version(self) -> tuple[int, int] | None:
        """The CUDA version of nvcc, by its own word; None without one that says it."""
        status, said = nvidia.run([self.nvcc, "--version"], 20) if self.nvcc else (1, "")
        found = re.search(r"release (\d+)\.(\d+)", said) if not status else None
        return (int(found[1]), int(found[2])) if found else None

    @cached_property
    def cuda_headers(self) -> bool:
        """Whether CUDA's headers lie in the toolkit that nvcc's place stands for."""
        return (Path(self.nvcc or "nvcc").parent.parent / "include" / "cuda_runtime.h").exists()

    def has_library(self, name: str) -> bool:
        """Whether the dynamic linker finds a shared library."""
        import ctypes

        try:
            ctypes.CDLL(name)
        except OSError:
            return False
        return True

    @cached_property
    def compiler(self) -> str | None:
        return self._program("g++")

    @cached_property
    def python_headers(self) -> bool:
        import sysconfig

        return (Path(sysconfig.get_paths()["include"]) / "Python.h").exists()

    # Packages

    @cached_property
    def installed(self) -> dict[str, str]:
        """{name: version} of every package of this environment."""
        return {_normal(found.name): found.version for found in metadata.distributions() if found.name}

    @cached_property
    def torch_cuda(self) -> tuple[int, int] | None:
        """The CUDA version torch was built with, read without importing it; None for a CPU build."""
        text = metadata.distribution("torch").locate_file("torch/version.py").read_text()
        found = re.search(r"^cuda\b[^=]*=\s*['\"](\d+)\.(\d+)", text, re.MULTILINE)
        return (int(found[1]), int(found[2])) if found else None

    def pins(self, name: str) -> dict[str, str] | None:
        """{name: version} of requirements/<name>.txt for this Python; None where there is no such file."""
        from packaging.requirements import Requirement

        file = PROJECT / "requirements" / f"{name}.txt"
        if not file.exists():
            return None
        wanted = [Requirement(line) for line in file.read_text().splitlines() if line.strip()]
        wanted = [pin for pin in wanted if not pin.marker or pin.marker.evaluate()]
        return {_normal(pin.name): str(pin.specifier).removeprefix("==") for pin in wanted}

    # Folders

    @cached_property
    def project(self) -> Path:
        return PROJECT

    @cached_property
    def hub_cache(self) -> Path:
        """Where huggingface_hub keeps downloads."""
        home = self.environment.get("HF_HOME") or os.path.join(
            self.environment.get("XDG_CACHE_HOME") or "~/.cache", "huggingface"
        )
        return Path(self.environment.get("HF_HUB_CACHE") or os.path.join(home, "hub")).expanduser()

    def disk(self, folder: Path) -> Disk:
        """The disk of a folder, which need not exist yet."""
        there = folder.absolute()
        while not there.exists():
            there = there.parent
        return Disk(there, self._file_system(there), shutil.disk_usage(there).free, os.access(there, os.W_OK))

    def _file_system(self, folder: Path) -> str:
        mounts = [line.split() for line in self._text("proc/mounts").splitlines()]
        here = [(len(m[1]), m[2]) for m in mounts if m[1] == "/" or f"{folder.resolve()}/".startswith(m[1] + "/")]
        return max(here, default=(0, ""))[1]

    # Network

    @cached_property
    def hub_url(self) -> str:
        return self.environment.get("HF_ENDPOINT") or "https://huggingface.co"

    @cached_property
    def answers(self) -> dict[str, WebAnswer]:
        """The answers of the hub and of the package index."""
        return network.ask({"hub": self.hub_url, "PyPI": "https://pypi.org/simple/pip/"})

    @cached_property
    def loopback_error(self) -> str:
        return network.loopback()

    @cached_property
    def free_ports(self) -> float:
        return network.free_ports()

    @cached_property
    def host_address(self) -> str:
        return network.host_address()

    @cached_property
    def address_is_ours(self) -> bool:
        return network.is_ours(self.host_address)

    @cached_property
    def proxied(self) -> bool:
        """Whether a request to a server on this machine would go to a proxy."""
        from requests.utils import get_environ_proxies

        return "http" in get_environ_proxies(f"http://{self.host_address}:30000")

    @cached_property
    def offline(self) -> list[str]:
        """Variables that forbid asking the hub."""
        return [name for name in OFFLINE if self.environment.get(name, "").upper() in ("1", "ON", "YES", "TRUE")]

    @cached_property
    def hub_token(self) -> str | None:
        home = self.hub_cache.parent
        file = Path(self.environment.get("HF_TOKEN_PATH") or home / "token")
        return self.environment.get("HF_TOKEN") or (file.read_text().strip() if file.exists() else None)

    def is_cached(self, kind: str, name: str) -> bool:
        """Whether a hub "models" or "datasets" is in the cache, with at least one snapshot that is not empty."""
        snapshots = self.hub_cache / f"{kind}--{name.replace('/', '--')}" / "snapshots"
        return any(any(snapshot.iterdir()) for snapshot in snapshots.glob("*"))

    # Reading

    def _text(self, name: str | Path) -> str:
        """A file's text, "" where it cannot be read."""
        try:
            return (self.root / name).read_text(errors="replace")
        except OSError:
            return ""

    def _program(self, name: str) -> str | None:
        return shutil.which(name, path=self.environment.get("PATH"))


def _normal(name: str) -> str:
    """A package's name as the index spells it."""
    return re.sub(r"[-_.]+", "-", name).lower()
