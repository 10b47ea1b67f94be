"""The network: addresses and ports of this machine, and web servers that answer within seconds."""

import random
import socket
import threading
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from email.utils import parsedate_to_datetime

SECONDS = 4.0
PORTS = (10_000, 32_767)  # AReaL looks for free ports in this range (areal/utils/network.py)
TRIED = 40


@dataclass(frozen=True)
class WebAnswer:
    """The answer of a web server: `skew` is its clock minus ours in seconds; `error` says why there was no answer."""

    error: str = ""
    skew: float | None = None


def ask(urls: dict[str, str]) -> dict[str, WebAnswer]:
    """Ask every server at once, for at most SECONDS in all, because name look-ups have no limit of their own."""
    answers: dict[str, WebAnswer] = {}
    threads = [
        threading.Thread(target=lambda n=name, u=url: answers.setdefault(n, _ask(u)), daemon=True)
        for name, url in urls.items()
    ]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + SECONDS
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    return {name: answers.get(name, WebAnswer(f"no answer in {SECONDS:.0f} s")) for name in urls}


def _ask(url: str) -> WebAnswer:
    try:
        request = urllib.request.Request(url, method="HEAD", headers={"User-Agent": "areal-gsm8k doctor"})
        try:
            with urllib.request.urlopen(request, timeout=SECONDS) as response:
                date = response.headers.get("Date")
        except urllib.error.HTTPError as answered:  # any status is an answer
            date = answered.headers.get("Date")
        return WebAnswer(skew=parsedate_to_datetime(date).timestamp() - time.time() if date else None)
    except (OSError, ValueError) as error:
        return WebAnswer(str(getattr(error, "reason", error)) or type(error).__name__)


def loopback() -> str:
    """Empty when a process can reach another over 127.0.0.1, else why not."""
    try:
        with socket.socket() as server:
            server.bind(("127.0.0.1", 0))
            server.listen()
            socket.create_connection(server.getsockname(), timeout=SECONDS).close()
    except OSError as error:
        return str(error)
    return ""


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def free_ports() -> float:
    """The share of free ports in a sample from the range that AReaL takes its ports from."""
    drawn = random.sample(range(*PORTS), TRIED)
    return sum(_is_free("", port) for port in drawn) / TRIED


def host_address() -> str:
    """The address AReaL lets servers listen on (areal/utils/network.py, gethostip). Raises OSError when there is none.

    This is the first address of the host name that is no loopback address, else the one of the route outwards.
    """
    for family, _, _, _, address in _addresses(socket.gethostname()):
        if family == socket.AF_INET and not address[0].startswith("127."):
            return address[0]
        if family == socket.AF_INET6 and address[0] != "::1":
            return address[0]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("8.8.8.8", 80))  # sends nothing
        return probe.getsockname()[0]


def _addresses(name: str) -> list:
    try:
        return socket.getaddrinfo(name, None, socket.AF_UNSPEC, socket.SOCK_DGRAM)
    except OSError:
        return []


def is_ours(address: str) -> bool:
    """Whether a server can listen on this address."""
    return _is_free(address, 0)


def _is_free(address: str, port: int) -> bool:
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as probe:
        try:
            probe.bind((address, port))
        except OSError:
            return False
    return True
