"""Checks of the GPU: driver, CUDA, compute capability, attention, sharing one card, memory."""

from areal_gsm8k.config.compose import as_overrides
from areal_gsm8k.config.defaults import AMPERE, BLACKWELL, attention_backend, server_settings
from areal_gsm8k.doctor import compilers
from areal_gsm8k.doctor.compilers import BLACKWELL_CUDA, dotted, usable
from areal_gsm8k.doctor.finding import Finding, fail, ok, warn
from areal_gsm8k.doctor.requested import Requested
from areal_gsm8k.machine.cards import CardMemory
from areal_gsm8k.machine.facts import Machine
from areal_gsm8k.machine.nvidia import GIB, Gpu
from areal_gsm8k.plan.memory import model_config, plan_for
from areal_gsm8k.plan.memory.fit import fit

OLDEST = (7, 5)  # SGLang 0.5.10: "SGLang only supports sm75 and above"
DRIVERS = {12: 525, 13: 580}  # docs.nvidia.com/deploy/cuda-compatibility: oldest driver of a CUDA major version
MOST = 0.7  # largest share of a shared card for the server
IN_USE = 0.1  # share of a GPU's memory that a desktop takes at most
HIDES_ALL = ("", "-1")  # values of CUDA_VISIBLE_DEVICES that hide every GPU
CPU_RECIPE = "the CPU recipe needs none of this: CUDA_VISIBLE_DEVICES= ./run train --config configs/cpu.yaml"


def known(machine: Machine) -> list[Gpu]:
    """The same GPUs; none where the driver cannot be read, which the checks then report."""
    try:
        return usable(machine)
    except Exception:
        return []


def driver(machine: Machine, requested: Requested) -> Finding:
    found = machine.driver
    install = (
        "Install the NVIDIA driver in Windows, none inside WSL, then wsl --shutdown"
        if machine.wsl
        else "Install the NVIDIA driver (Ubuntu: sudo ubuntu-drivers install) and restart"
    )
    if found.gpus:
        return ok(f"{found.version}, CUDA up to {dotted(found.cuda)}" if found.cuda else found.version)
    if found.error:
        restart = "Restart: the driver was updated while it ran" if "mismatch" in found.error else install
        return fail(f"nvidia-smi lists no GPU: {found.error[:200]}", f"{restart}. Or {CPU_RECIPE}")
    if machine.nvidia_device:
        return warn("there is an NVIDIA card, and no driver for it", f"{install}. Until then: the CPU recipe.")
    if requested.on_gpu:
        return fail("no NVIDIA GPU, and this configuration needs one", CPU_RECIPE)
    return ok("no NVIDIA GPU: the CPU recipe, a tiny model from scratch")


def chosen(machine: Machine, requested: Requested) -> Finding | None:
    variable = machine.environment.get("CUDA_VISIBLE_DEVICES")
    if not machine.driver.gpus or variable is None:
        return None
    left = usable(machine)
    if "MIG-" in variable:
        return fail(
            f"CUDA_VISIBLE_DEVICES={variable}: AReaL takes GPUs by number, and a part of one (MIG) has none",
            "Start in a container that shows this part only, and unset CUDA_VISIBLE_DEVICES.",
        )
    if variable.strip() in HIDES_ALL and not requested.on_gpu:
        return ok(f"CUDA_VISIBLE_DEVICES={variable!r} hides every GPU: the CPU recipe")
    named = len([name for name in variable.split(",") if name.strip()])
    if len(left) < max(named, 1):
        there = ", ".join(f"{gpu.index} ({gpu.name})" for gpu in machine.driver.gpus)
        worse = fail if requested.on_gpu else warn
        return worse(
            f"CUDA_VISIBLE_DEVICES={variable!r} leaves {len(left)} of {len(machine.driver.gpus)} GPUs: "
            f"a name that is not there ends the list; there are {there}",
            "unset CUDA_VISIBLE_DEVICES, or give numbers or ids that `nvidia-smi -L` lists",
        )
    return ok(f"CUDA_VISIBLE_DEVICES={variable} leaves {len(left)} of {len(machine.driver.gpus)}")


def cards(machine: Machine, requested: Requested) -> Finding | None:
    gpus = usable(machine)
    if not gpus:
        return None
    weakest = min(gpus, key=lambda gpu: gpu.capability)
    found = ", ".join(f"{gpu.name} ({_size(gpu)}, {dotted(gpu.capability)})" for gpu in gpus)
    if weakest.capability < OLDEST:
        return fail(f"{found}: SGLang needs compute capability 7.5", f"Another card; {CPU_RECIPE}")
    if weakest.capability < AMPERE and requested.get("actor.dtype") == "bfloat16":
        return warn(
            f"{found}: before 8.0 there is no bfloat16, so SGLang computes in float16, unlike the trainer",
            "Watch logprob_drift (docs/metrics.md); actor.dtype=float32 is exact on the trainer's side and takes twice "
            "the memory.",
        )
    return ok(found)


def cuda(machine: Machine, requested: Requested) -> Finding | None:
    """The CUDA that torch was built with against the newest that the driver runs."""
    gpus, newest = usable(machine), machine.driver.cuda
    if not gpus or newest is None:
        return None
    built = machine.torch_cuda
    if built is None:
        return fail(
            f"torch {machine.installed.get('torch', '')} is a CPU build: it cannot use the GPU",
            "AREAL_GSM8K_DEVICE=gpu ./run doctor installs the GPU set",
        )
    found = f"torch was built with CUDA {dotted(built)}, the driver runs up to {dotted(newest)}"
    needed = f"a driver of version {DRIVERS.get(built[0], '?')} or newer"
    if built[0] > newest[0]:
        return fail(found, f"Update the driver: {needed}.")
    if built > newest and max(gpu.capability for gpu in gpus) >= BLACKWELL and newest < BLACKWELL_CUDA:
        return fail(f"{found}; a Blackwell card needs 12.8", "Update the driver: version 570 or newer.")
    if built > newest:
        return warn(
            f"{found}: binaries of the same major version run, newer PTX, as kernels compiled here may hold, does not",
            "Update the driver (CUDA 12.8: 570 or newer, in Windows 572.61), at the latest if a kernel will not load.",
        )
    return ok(found)


def torch(machine: Machine, requested: Requested) -> Finding | None:
    """The GPUs that torch itself sees, from a process of its own, and only where there is a GPU to see."""
    gpus = usable(machine)
    if not gpus or machine.torch_cuda is None:
        return None
    seen = machine.torch_sees
    if seen["count"] < len(gpus):
        return fail(
            f"torch sees {seen['count']} of {len(gpus)} GPUs",
            "See why: ./run python -c 'import torch; torch.zeros(1).cuda()'. In a container: --gpus all.",
        )
    majors = {arch.removeprefix("sm_").rstrip("af")[:-1] for arch in seen["archs"] if arch.startswith("sm_")}
    unknown = [gpu.name for gpu in gpus if str(gpu.capability[0]) not in majors]
    if unknown:
        return fail(f"this torch has no kernels for {', '.join(unknown)} ({' '.join(seen['archs'])})", CPU_RECIPE)
    return ok(f"torch sees {seen['count']}")


def attention(machine: Machine, requested: Requested) -> Finding | None:
    gpus = usable(machine)
    if not gpus or requested.backend != "sglang":
        return None
    capabilities = [gpu.capability for gpu in gpus]
    weakest, newest = min(capabilities), max(capabilities)
    asked, best = requested.get("sglang.attention_backend"), attention_backend(capabilities)
    key = f"sglang.attention_backend={best}"
    cure = " ".join(as_overrides(server_settings(capabilities))) or key
    if asked == "fa3" and best != "fa3":
        why = "SGLang refuses it above 9.0" if newest >= BLACKWELL else "it is made for Hopper (9.0)"
        return fail(f"sglang.attention_backend=fa3 on compute capability {dotted(weakest)}: {why}", cure, cure)
    if asked == "flashinfer" and weakest < AMPERE:
        found = f"sglang.attention_backend=flashinfer on compute capability {dotted(weakest)}, below 8.0"
        return fail(found, cure, cure)
    faster = f"; {key} is SGLang's own choice here" if best == "fa3" and asked != best else ""
    return ok(f"sglang.attention_backend={asked or best}{faster}")


def flash_attention(machine: Machine, requested: Requested) -> Finding | None:
    """The trainer's attention. AReaL's default wants flash-attn, which it does not install."""
    asked = requested.get("actor.attn_impl")
    if not requested.on_gpu or asked is None:
        return None
    there = machine.installed.get("flash-attn")
    if asked.startswith("flash_attention") and not there:
        return fail(
            f"actor.attn_impl={asked}, and flash-attn is not installed", "actor.attn_impl=sdpa", "actor.attn_impl=sdpa"
        )
    if asked == "sdpa":
        other = f"; flash-attn {there} is here: actor.attn_impl=flash_attention_2 may be faster" if there else ""
        return ok(f"actor.attn_impl=sdpa, with packed sequences kept apart (training/actor.py){other}")
    return ok(f"actor.attn_impl={asked}{f', flash-attn {there}' if there else ''}")


def sharing(machine: Machine, requested: Requested) -> Finding | None:
    """Server and trainer as two processes on one card."""
    gpus = usable(machine)
    if len(gpus) != 1 or not requested.on_gpu:
        return None
    if gpus[0].compute_mode not in ("Default", "[N/A]"):
        return fail(
            f"compute mode {gpus[0].compute_mode}: one process at a time, and server and trainer share this card",
            "sudo nvidia-smi -c DEFAULT",
        )
    if requested.get("enable_offload"):
        return ok("server and trainer take turns on one card (training/colocation.py), weights by disk")
    key = "sglang.mem_fraction_static" if requested.backend == "sglang" else "vllm.gpu_memory_utilization"
    share = requested.get(key)
    if share is not None and share > MOST:
        return warn(f"server and trainer share one card: {key}={share} leaves the trainer little", f"{key}=0.4")
    return ok(f"server and trainer share one card: {key}={share}, weights by disk")


def memory_in_use(machine: Machine, requested: Requested) -> Finding | None:
    gpus = usable(machine)
    if not gpus or not requested.on_gpu:
        return None
    if untold := _untold(gpus):
        return untold
    held = [f"{gpu.used / GIB:.1f} of {gpu.memory / GIB:.0f} GiB on GPU {gpu.index}" for gpu in gpus if _is_held(gpu)]
    if not held:
        return ok("free")
    who = "; ".join(machine.driver.holders[:4]) or "the driver does not say by whom (under WSL: Windows' programs too)"
    return warn(f"{', '.join(held)} are taken: {who}", "End those programs (kill PID), or lower the server's share.")


def memory_plan(machine: Machine, requested: Requested) -> Finding | None:
    """The memory plan of this run against these cards, and the settings with which it fits.

    Where nvidia-smi does not tell the cards' memory there is no plan; `memory_in_use` says so.
    """
    gpus = usable(machine)
    if not gpus or not requested.on_gpu or _untold(gpus):
        return None
    shape, _ = model_config.read(requested.model)
    cards = [CardMemory(gpu.memory / GIB, gpu.used / GIB) for gpu in gpus]
    memory = min(machine.memory, machine.memory_limit or machine.memory)
    plan = plan_for(requested.values, shape, cards, memory)
    needs = f"{plan.fullest.total / GIB:.1f} of {plan.fullest.capacity / GIB:.1f} GiB are needed at most, by gsm8k plan"
    if plan.fits:
        return ok(needs)
    found = fit(requested.values, shape, cards, requested.with_settings, memory)
    if not found.plan.fits:
        return fail(f"{needs}; no setting makes it fit", "A smaller model: ./run gsm8k recipes")
    cure = " ".join(as_overrides(found.settings))
    return fail(needs, cure, cure)


def _untold(gpus: list[Gpu]) -> Finding | None:
    names = ", ".join(gpu.name for gpu in gpus if gpu.memory is None)
    if not names:
        return None
    return warn(
        f"nvidia-smi does not say how much memory {names} has (shared with the processor's?): not planned",
        "./run gsm8k plan --gpu GIB says what fits; give the recipe and sglang.mem_fraction_static by hand.",
    )


def _size(gpu: Gpu) -> str:
    return "memory not told" if gpu.memory is None else f"{gpu.memory / GIB:.0f} GiB"


def _is_held(gpu: Gpu) -> bool:
    return gpu.used > IN_USE * gpu.memory


CHECKS = {
    "driver": driver,
    "chosen GPUs": chosen,
    "cards": cards,
    "CUDA": cuda,
    "torch": torch,
    "compilers": compilers.compilers,
    "server's attention": attention,
    "trainer's attention": flash_attention,
    "one card for both": sharing,
    "GPU memory": memory_in_use,
    "memory plan": memory_plan,
}
