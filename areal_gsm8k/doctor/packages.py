"""Checks of the environment: is the set for this machine installed, and at the locked versions?"""

from areal_gsm8k.doctor.finding import Finding, fail, ok, warn
from areal_gsm8k.doctor.requested import Requested
from areal_gsm8k.machine.facts import Machine

MAIN = ("areal", "torch", "transformers", "datasets", "omegaconf", "hydra-core", "huggingface-hub")
SERVER = ("sglang", "sglang-kernel", "flashinfer-python", "triton")


def packages(machine: Machine, requested: Requested) -> Finding:
    kind = "gpu" if requested.on_gpu or "sglang" in machine.installed else "cpu"  # a GPU set serves the CPU recipe too
    names = MAIN + (SERVER if requested.backend == "sglang" else ("vllm",) if requested.backend == "vllm" else ())
    if requested.get("enable_offload"):
        names += ("torch-memory-saver",)
    missing = [name for name in names if name not in machine.installed]
    anew = f"AREAL_GSM8K_DEVICE={kind} ./run doctor installs the locked set anew"
    if given := machine.environment.get("AREAL_GSM8K_VENV"):  # an image's own
        anew = f"./run does not change {given} (AREAL_GSM8K_VENV): install there what is missing, if a run misses it"
    if missing:
        only = " (no set holds it: install it yourself, or use the image areal-runtime:v1.0.4-vllm)"
        return fail(f"not installed: {', '.join(missing)}{only if 'vllm' in missing else ''}", anew)
    pins = machine.pins(kind)
    if pins is None and (pins := machine.pins("cpu")) is None:
        return ok(f"{_versions(machine, names)}; requirements/ is not here, so nothing to compare with")
    other = [
        f"{name} {machine.installed[name]} (locked: {pins[name]})"
        for name in names
        if name in pins and machine.installed[name].split("+")[0] != pins[name]
    ]
    if other:
        return warn(", ".join(other), anew)
    return ok(f"{_versions(machine, names[:3])}, as locked in requirements/{kind}.txt")


def _versions(machine: Machine, names: tuple[str, ...]) -> str:
    return ", ".join(f"{name} {machine.installed[name]}" for name in names)


CHECKS = {"versions": packages}
