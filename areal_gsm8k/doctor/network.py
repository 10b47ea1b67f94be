"""Checks of the network: addresses and ports of this machine, the hub, its token and cache, the package index."""

from areal_gsm8k.doctor.finding import Finding, fail, ok, warn
from areal_gsm8k.doctor.requested import Requested
from areal_gsm8k.machine.facts import Machine
from areal_gsm8k.machine.network import PORTS

GATED = ("meta-llama/", "google/gemma")  # a licence must be accepted on the hub's page
RANGE = f"{PORTS[0]} to {PORTS[1]}"


def loopback(machine: Machine, requested: Requested) -> Finding:
    if machine.loopback_error:
        return fail(
            f"127.0.0.1 cannot be used: {machine.loopback_error}",
            "A firewall or sandbox keeps processes apart: sudo ip link set lo up, or allow it.",
        )
    return ok("processes reach each other on 127.0.0.1")


def ports(machine: Machine, requested: Requested) -> Finding:
    share = machine.free_ports
    if share == 0:
        return fail(f"none of those tried from {RANGE} is free", "Find who has them: ss -ltnp")
    if share < 0.5:
        return warn(f"{1 - share:.0%} of {RANGE} are taken: servers may not find theirs", "Find by whom: ss -ltnp")
    return ok(f"{share:.0%} of those tried from {RANGE} are free")


def host_address(machine: Machine, requested: Requested) -> Finding | None:
    """AReaL's servers listen on the host's address, not on loopback."""
    if not requested.on_gpu:
        return None
    name_it = "sudo ip addr add 10.255.255.1/32 dev lo; echo 10.255.255.1 $(hostname) | sudo tee -a /etc/hosts"
    try:
        address = machine.host_address
    except OSError as error:
        return fail(f"this machine has no address but loopback ({error}): AReaL's servers need one", name_it)
    if not machine.address_is_ours:
        return fail(
            f"the host's name stands for {address}, which is not this machine's (a VPN, an old /etc/hosts?)",
            "Correct or remove the line of $(hostname) in /etc/hosts.",
        )
    return ok(f"servers listen on {address}, without a password: for networks you trust")


def proxy(machine: Machine, requested: Requested) -> Finding | None:
    """AReaL waits for its server with `requests`, which heeds http_proxy."""
    if not requested.on_gpu:
        return None
    if machine.proxied:
        direct = f"localhost,127.0.0.1,{machine.host_address}"
        return fail(
            "requests to the rollout server would go to the proxy, and the start would wait for ever",
            f"export NO_PROXY={direct} no_proxy={direct}",
        )
    return ok("none between server and trainer")


def hub(machine: Machine, requested: Requested) -> Finding:
    """Whether the needed downloads are possible."""
    lacking = [name for kind, name in requested.from_hub if not machine.is_cached(kind, name)]
    needed = f"; not on this disk: {', '.join(lacking)}" if lacking else "; nothing is needed from it"
    elsewhere = (
        "Or download where there is a network (hf download NAME --local-dir FOLDER; data: --repo-type dataset) and "
        "name the folder in actor.path or train_dataset.path; train_dataset.path=generated needs no download."
    )
    if machine.offline:
        found = f"{', '.join(machine.offline)} forbids it{needed}"
        return fail(found, f"unset {' '.join(machine.offline)}. {elsewhere}") if lacking else ok(found)
    if error := machine.answers["hub"].error:
        found = f"{machine.hub_url} does not answer ({error}){needed}"
        if lacking:
            return fail(found, f"Check the network or proxy, or set HF_ENDPOINT to a mirror. {elsewhere}")
        return warn(found, "HF_HUB_OFFLINE=1 saves the waiting for it.")
    return ok(f"{machine.hub_url} answers{needed}")


def token(machine: Machine, requested: Requested) -> Finding | None:
    if not requested.from_hub:
        return None
    held = machine.hub_token
    gated = [name for _, name in requested.from_hub if name.startswith(GATED)]
    if held and (held != held.strip() or not held.startswith("hf_")):
        return warn("the hub's token does not look like one (hf_...)", "export HF_TOKEN=hf_..., or hf auth login")
    if gated and not held and not all(machine.is_cached("models", name) for name in gated):
        return fail(
            f"{', '.join(gated)} is given to accepted accounts only, and there is no token",
            f"Accept its licence on https://huggingface.co/{gated[0]}, then hf auth login, or export HF_TOKEN=hf_...",
        )
    return ok("a token is there" if held else "none; not needed for public models")


def index(machine: Machine, requested: Requested) -> Finding:
    if error := machine.answers["PyPI"].error:
        return warn(
            f"pypi.org does not answer ({error}): packages cannot be installed from there",
            "Needed for the next set-up only; behind a mirror set PIP_INDEX_URL.",
        )
    return ok("pypi.org answers")


CHECKS = {
    "loopback": loopback,
    "ports": ports,
    "host address": host_address,
    "proxy": proxy,
    "hub": hub,
    "hub token": token,
    "package index": index,
}
