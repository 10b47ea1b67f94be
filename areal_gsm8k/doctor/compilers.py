"""Checks what SGLang needs to compile its kernels when the server starts, and the system's libraries it is linked with.

./run doctor
"""

from areal_gsm8k.config.defaults import BLACKWELL
from areal_gsm8k.doctor.finding import Finding, fail, ok, warn
from areal_gsm8k.doctor.requested import Requested
from areal_gsm8k.machine import nvidia
from areal_gsm8k.machine.facts import Machine
from areal_gsm8k.machine.nvidia import Gpu

BLACKWELL_CUDA = (12, 8)  # the first CUDA version that supports Blackwell
NUMA = "libnuma.so.1"  # sgl_kernel is linked with it
IN_A_CONTAINER = "docker compose -f docker/compose.yaml run --rm gpu train (it brings everything)"


def usable(machine: Machine) -> list[Gpu]:
    """The GPUs that CUDA_VISIBLE_DEVICES leaves, in its order."""
    return nvidia.usable(machine.driver.gpus, machine.environment.get("CUDA_VISIBLE_DEVICES"))


def dotted(version: tuple[int, int]) -> str:
    return ".".join(map(str, version))


def compilers(machine: Machine, requested: Requested) -> Finding | None:
    """SGLang 0.5.10 and flashinfer compile kernels when the server starts, Triton a launcher in C."""
    if not usable(machine) or not requested.on_gpu:
        return None
    sglang = requested.backend == "sglang"
    lacking = []
    if sglang and not machine.nvcc:
        lacking.append("nvcc (SGLang compiles kernels as it starts)")
    if not machine.compiler:
        lacking.append("g++")
    if not machine.python_headers:
        lacking.append("Python.h")
    if sglang and not machine.has_library(NUMA):
        lacking.append(f"{NUMA} (SGLang's kernels are linked with it)")
    if lacking:
        version = "{}.{}".format(*machine.python[:2])
        packages = {"nvcc": "cuda-toolkit-12-8", "g++": "build-essential", "Python.h": f"python{version}-dev"}
        packages[NUMA] = "libnuma1"
        names = " ".join(packages[thing.split()[0]] for thing in lacking)
        source = " (from NVIDIA's repository for your system, under WSL its wsl-ubuntu one)" if "cuda" in names else ""
        return fail(f"not there: {', '.join(lacking)}", f"sudo apt install {names}{source}; or {IN_A_CONTAINER}")
    return (_unfit(machine) if sglang else None) or ok(
        f"{f'nvcc at {machine.nvcc}, ' if machine.nvcc else ''}g++ at {machine.compiler}"
    )


def _unfit(machine: Machine) -> Finding | None:
    """An nvcc that is there and cannot be used: PyTorch takes the folder above it for the whole toolkit."""
    if not machine.cuda_headers:
        toolkit = machine.nvcc_target.parent.parent
        return fail(
            f"nvcc at {machine.nvcc} is a link or a wrapper outside its toolkit: no include/cuda_runtime.h beside it, "
            "so no kernel compiles",
            f"export CUDA_HOME={toolkit}"
            if (toolkit / "include").is_dir()
            else "export CUDA_HOME=THE_TOOLKIT'S_FOLDER",
        )
    version, built = machine.nvcc_version, machine.torch_cuda
    if version is None:
        return fail(f"nvcc at {machine.nvcc} does not tell its version", f"See why: {machine.nvcc} --version")
    if built and version[0] != built[0]:
        toolkit, folder = f"cuda-toolkit-{built[0]}-{built[1]}", f"/usr/local/cuda-{dotted(built)}"
        return warn(
            f"nvcc at {machine.nvcc} is of CUDA {dotted(version)}, torch was built with {dotted(built)}: kernels of "
            "another major version may not load beside it",
            f"If so: sudo apt install {toolkit}, and export CUDA_HOME={folder}",
        )
    if version < BLACKWELL_CUDA and max(gpu.capability for gpu in usable(machine)) >= BLACKWELL:
        return fail(
            f"nvcc at {machine.nvcc} is of CUDA {dotted(version)}; a Blackwell card needs {dotted(BLACKWELL_CUDA)}",
            "sudo apt install cuda-toolkit-12-8, and export CUDA_HOME=/usr/local/cuda-12.8",
        )
    return None
