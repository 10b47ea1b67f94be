"""Real SGLang on a CPU as a child, for the contract tests: ./run test --sglang

It runs in an environment of its own, .venv.sglang (requirements/sglang-cpu.txt), with sglang_stubs/ on its path and
nothing of sglang patched. Healthy after 35 s, or 100 s when Python has not compiled it yet.
"""

from __future__ import annotations

import os
from pathlib import Path

from areal_gsm8k.children import Child
from areal_gsm8k.machine.network import free_port
from areal_gsm8k.serve.process import ServerProcess

PROJECT = Path(__file__).resolve().parents[2]
PYTHON = PROJECT / ".venv.sglang" / "bin" / "python"
STUBS = Path(__file__).parent / "sglang_stubs"
HEALTHY_SECONDS = 400
# As `python -m sglang.launch_server`, but it dies with the tests, however these end.
LAUNCH = """
import runpy
from areal_gsm8k.children import die_with_parent
die_with_parent()
runpy.run_module("sglang.launch_server", run_name="__main__", alter_sys=True)
"""


class SGLangServer(ServerProcess):
    """Everything but the way it is started is as with the embedded server: url, wait_healthy, check, stop."""

    def __init__(self, model_path: str | Path, log: Path, **options):
        """``options`` are sglang's own, such as context_length=1024. The model is still loading: see wait_healthy."""
        if not PYTHON.exists():
            raise FileNotFoundError(f"{PYTHON} is missing: `./run test --sglang` installs SGLang there")
        self.host, self.port = "127.0.0.1", free_port()
        fixed = {
            "model_path": model_path,
            "host": self.host,
            "port": self.port,
            "device": "cpu",
            "dtype": "float32",
            "max_total_tokens": 16384,  # otherwise it takes 12 GB for keys and values
        }
        command = [str(PYTHON), "-c", LAUNCH, "--sleep-on-idle"]
        for option, value in (fixed | options).items():
            command += ["--" + option.replace("_", "-"), str(value)]
        environment = {
            "PYTHONPATH": os.pathsep.join([str(STUBS), str(PROJECT)]),
            "SGLANG_USE_CPU_ENGINE": "1",
            "SGL_FORCE_SHUTDOWN": "1",
            "OMP_NUM_THREADS": "1",
            "HF_HUB_OFFLINE": "1",
        }
        Child.__init__(self, "SGLang", command, log, environment)

    def wait_healthy(self, timeout: float = 0.0) -> None:
        super().wait_healthy(max(timeout, HEALTHY_SECONDS))
