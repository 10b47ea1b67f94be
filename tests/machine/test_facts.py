"""How the doctor reads its facts: the driver's tool, files, the network."""

import http.server
import socket
import subprocess
import threading
import time
from email.utils import formatdate
from importlib.util import find_spec
from pathlib import Path

import pytest

from areal_gsm8k.machine import network, nvidia
from areal_gsm8k.machine.facts import OURS, Machine
from areal_gsm8k.machine.nvidia import GIB, MIB, Driver, Gpu

TABLE = """Sat Nov 21 17:00:00 2026
+-----------------------------------------------------------------------------------------+
| NVIDIA-SMI 550.54.15              Driver Version: 550.54.15      CUDA Version: 12.4     |
|-----------------------------------------+------------------------+----------------------+
"""
QUERIED = """0, GPU-5f, NVIDIA GeForce RTX 4090, 8.9, 24564, 1017, Default
1, GPU-6a, Tesla T4, 7.5, 15360, 0, Exclusive_Process"""


def says(table=(0, TABLE), gpus=(0, QUERIED), holders=(0, "")):
    """A stand-in for running nvidia-smi."""

    def run(command, seconds):
        if len(command) == 1:
            return table
        return gpus if "--query-gpu" in command[1] else holders

    return run


@pytest.fixture
def tool(tmp_path, monkeypatch):
    """Something called nvidia-smi is on the PATH."""
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))


def test_no_tool_is_no_driver(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert nvidia.read_driver() == Driver()


def test_driver_cuda_and_gpus(tool):
    found = nvidia.read_driver(says(holders=(0, "812, /usr/bin/python3, 1000 MiB\nnot, a number")))
    assert (found.version, found.cuda, found.error) == ("550.54.15", (12, 4), "")
    assert found.gpus == (
        Gpu(0, "GPU-5f", "NVIDIA GeForce RTX 4090", (8, 9), 24564 * MIB, 1017 * MIB, "Default"),
        Gpu(1, "GPU-6a", "Tesla T4", (7, 5), 15360 * MIB, 0, "Exclusive_Process"),
    )
    assert found.holders == ("812, /usr/bin/python3, 1000 MiB",)


@pytest.mark.parametrize(
    ("answers", "said"),
    [
        ({"table": (9, "NVIDIA-SMI has failed because it couldn't\ncommunicate with it.")}, "couldn't communicate"),
        ({"table": (18, "Failed to initialize NVML: Driver/library version mismatch")}, "mismatch"),
        ({"table": (1, "")}, "exit status 1"),
        ({"gpus": (2, 'Field "compute_cap" is not a valid field to query.')}, "compute_cap"),
        ({"gpus": (0, "No devices were found")}, "No devices were found"),
        ({"gpus": (2, "")}, "exit status 2"),
        ({"gpus": (0, "")}, "no devices were found"),
    ],
)  # fmt: skip
def test_a_driver_that_lists_nothing_says_why(tool, answers, said):
    found = nvidia.read_driver(says(**answers))
    assert found.there and not found.gpus and said in found.error


def test_memory_shared_with_the_processor_has_no_number(tool):
    gpus = (0, "0, GPU-s, NVIDIA GB10, 12.1, [N/A], [N/A], Default")
    assert nvidia.read_driver(says(gpus=gpus)).gpus == (Gpu(0, "GPU-s", "NVIDIA GB10", (12, 1), None, 0, "Default"),)


def test_output_that_is_no_text_is_read():
    assert nvidia.run(["printf", r"\377 GPU"]) == (0, "\ufffd GPU")


def test_a_driver_that_does_not_answer(tool):
    def hangs(command, seconds):
        raise subprocess.TimeoutExpired(command, seconds)

    assert "did not answer in 20 s" in nvidia.read_driver(hangs).error


@pytest.fixture
def machine(tmp_path):
    """A machine whose files are those that `put` writes."""

    class Fake(Machine):
        def put(self, name: str, text: str = "") -> Path:
            file = self.root / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
            return file

    return Fake(tmp_path, {"HOME": str(tmp_path), "PATH": str(tmp_path / "bin")})


@pytest.mark.parametrize(
    ("version", "wsl"),
    [
        ("Linux version 5.15.167.4-microsoft-standard-WSL2 (root@f9c8)", 2),
        ("Linux version 4.4.0-19041-Microsoft (Microsoft@Microsoft.com)", 1),
        ("Linux version 6.8.0-45-generic (buildd@lcy02)", 0),
    ],
)
def test_wsl(machine, version, wsl):
    machine.put("proc/version", version)
    assert machine.wsl == wsl


def test_wslconfig(machine):
    assert machine.wslconfig is None
    machine.put("mnt/c/Users/jo/.wslconfig", "[wsl2]\r\nprocessors=8\r\nMemory = 24GB\r\n")
    vars(machine).pop("wslconfig")
    assert machine.wslconfig == "24GB"


@pytest.mark.parametrize(
    ("file", "text", "limit"),
    [
        ("sys/fs/cgroup/memory.max", "4294967296\n", 4 * GIB),
        ("sys/fs/cgroup/memory.max", "max\n", None),
        ("sys/fs/cgroup/memory/memory.limit_in_bytes", "2147483648\n", 2 * GIB),
        ("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n", None),
    ],
)
def test_a_containers_memory(machine, file, text, limit):
    machine.memory = 64 * GIB
    machine.put(file, text)
    assert machine.memory_limit == limit


def test_file_systems(machine, tmp_path):
    machine.put(
        "proc/mounts", f"/dev/sdc / ext4 rw 0 0\nC:\\134 {tmp_path}/mnt/c 9p rw 0 0\nx {tmp_path}/mnt/cd tmpfs 0 0\n"
    )
    assert machine.disk(tmp_path / "home/not/yet").kind == "ext4"
    (tmp_path / "mnt/c/Users").mkdir(parents=True)
    found = machine.disk(tmp_path / "mnt/c/Users/jo/runs")
    assert (found.kind, found.path, found.writable) == ("9p", tmp_path / "mnt/c/Users", True) and found.free > 0


def test_a_card_without_a_driver(machine):
    device = "sys/bus/pci/devices/0000:01:00.0"
    machine.put(f"{device}/vendor", "0x10de\n")
    machine.put(f"{device}/class", "0x040300\n")  # its sound device
    assert not machine.nvidia_device
    vars(machine).pop("nvidia_device")
    machine.put(f"{device}/class", "0x030000\n")
    assert machine.nvidia_device


def test_nvcc_is_looked_for_where_sglang_does(machine, tmp_path):
    assert machine.nvcc is None
    vars(machine).pop("nvcc")
    there = machine.put("usr/local/cuda/bin/nvcc")
    assert machine.nvcc == str(there)
    vars(machine).pop("nvcc")
    machine.environment["CUDA_HOME"] = str(tmp_path / "nowhere")
    assert machine.nvcc is None  # the variable wins, even when it is wrong


def test_an_nvcc_outside_its_toolkit_has_no_headers(machine, tmp_path):
    real = machine.put("opt/cuda/bin/nvcc", "#!/bin/sh\necho 'Cuda compilation tools, release 12.6, V12.6.85'\n")
    real.chmod(0o755)
    machine.put("opt/cuda/include/cuda_runtime.h")
    (tmp_path / "link").mkdir()
    link = tmp_path / "link" / "nvcc"
    link.symlink_to(real)
    for nvcc, there in ((real, True), (link, False)):
        vars(machine).update(nvcc=str(nvcc))
        for fact in ("cuda_headers", "nvcc_version"):
            vars(machine).pop(fact, None)
        assert (machine.cuda_headers, machine.nvcc_version) == (there, (12, 6))
        assert machine.nvcc_target == real.resolve()


def test_a_library_is_there_when_the_linker_finds_it(machine):
    assert machine.has_library("libc.so.6") and not machine.has_library("libno-such-thing.so.1")


def test_pins_are_those_of_this_python(machine):
    assert machine.pins("gpu")["sglang"] == "0.5.10.post1"
    assert machine.pins("cpu")["areal"] == "1.0.4"
    assert machine.pins("no-such-set") is None


def test_torchs_cuda_is_read_from_its_file(machine, monkeypatch, tmp_path):
    class Torch:
        locate_file = staticmethod(lambda name: tmp_path / name)

    monkeypatch.setattr("areal_gsm8k.machine.facts.metadata.distribution", lambda name: Torch)
    machine.put("torch/version.py", "__version__ = '2.9.1+cu128'\ndebug = False\ncuda: Optional[str] = '12.8'\n")
    assert machine.torch_cuda == (12, 8)
    machine.put("torch/version.py", "cuda: Optional[str] = None\n")
    vars(machine).pop("torch_cuda")
    assert machine.torch_cuda is None


def test_the_hubs_cache(machine, tmp_path):
    machine.environment["HF_HOME"] = str(tmp_path / "hf")
    assert machine.hub_cache == tmp_path / "hf/hub"
    assert not machine.is_cached("models", "a/b")
    machine.put("hf/hub/models--a--b/snapshots/1f/config.json", "{}")
    (tmp_path / "hf/hub/models--c--d/snapshots/2e").mkdir(parents=True)
    assert machine.is_cached("models", "a/b") and not machine.is_cached("models", "c/d")
    assert machine.hub_token is None
    machine.put("hf/token", "hf_abc\n")
    vars(machine).pop("hub_token")
    assert machine.hub_token == "hf_abc"
    machine.environment |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "0"}
    assert machine.offline == ["HF_HUB_OFFLINE"]


@pytest.mark.parametrize(
    ("exempt", "proxied"), [("", True), ("localhost,192.168.7.7", False), ("192.168.0.0/16", False)]
)
def test_a_proxy_between_server_and_trainer(machine, monkeypatch, exempt, proxied):
    machine.host_address = "192.168.7.7"
    monkeypatch.setenv("http_proxy", "http://proxy:3128")
    monkeypatch.setenv("no_proxy", exempt)
    assert machine.proxied == proxied


# The network


@pytest.fixture
def web():
    """A web server of this machine, an hour ahead; gives its address."""

    class Page(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.send_response_only(404)
            self.send_header("Date", formatdate(time.time() + 3600, usegmt=True))
            self.end_headers()

    server = http.server.HTTPServer(("127.0.0.1", 0), Page)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_answers_refusals_and_silence(web, monkeypatch):
    monkeypatch.setattr(network, "SECONDS", 0.5)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        urls = {"there": web, "refused": "http://127.0.0.1:9", "silent": f"http://127.0.0.1:{silent.getsockname()[1]}"}
        found = network.ask(urls)
    assert found["there"].error == "" and found["there"].skew == pytest.approx(3600, abs=5)
    assert "refused" in found["refused"].error
    assert "timed out" in found["silent"].error or "no answer" in found["silent"].error


def test_loopback_ports_and_addresses(monkeypatch):
    assert network.loopback() == ""
    assert 0 < network.free_ports() <= 1
    assert network.is_ours("127.0.0.1") and not network.is_ours("192.0.2.1")  # an address for documentation (RFC 5737)
    names = [(socket.AF_INET, None, None, "", ("127.0.1.1", 0)), (socket.AF_INET, None, None, "", ("10.1.2.3", 0))]
    monkeypatch.setattr(network, "_addresses", lambda name: names)
    assert network.host_address() == "10.1.2.3"


def test_every_process_of_a_run_is_known_by_its_command():
    for module in ("training.areal_launcher", "launch.prewarm", "serve"):
        assert find_spec(f"areal_gsm8k.{module}") and OURS.search(f"python -m areal_gsm8k.{module} --config x")
    assert not OURS.search("python -m areal_gsm8k watch runs/a/b")
