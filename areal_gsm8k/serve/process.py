"""The rollout server as a child process: started, waited for, watched, stopped; it dies with its parent.

server = ServerProcess("checkpoints/start", "logs/server.log", seed=1)
server.wait_healthy(timeout=60)
...
server.check()      # raises ChildDied with the log's tail when it is gone
server.stop()
"""

from __future__ import annotations

import json
import os
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

from areal_gsm8k.children import Child
from areal_gsm8k.paths import IMPORTABLE

BIND_SECONDS = 30.0  # for a new interpreter to bind its port; torch is imported after that
# A step allocates many times the memory it holds, and by default the kernel gives every large tensor new pages and
# clears them: a quarter of a 0.5B's training step. So glibc is to keep what was freed, except the largest blocks,
# between which ever larger holes would stay; and PyTorch is to take large pages.
MEMORY_IS_KEPT = {
    "MALLOC_MMAP_THRESHOLD_": str(32 * 2**20),  # the most that glibc allows
    "MALLOC_TRIM_THRESHOLD_": str(2**40),
    "THP_MEM_ALLOC_ENABLE": "1",
}


class ServerProcess(Child):
    """One running server. Attributes beside Child's: url, host, port."""

    def __init__(
        self,
        model_path: str | Path,
        log: str | Path,
        host: str = "127.0.0.1",
        port: int = 0,
        name: str = "rollout server",
        environment: dict[str, str] | None = None,
        **options,
    ):
        """Start a server and return once its port is bound (the model is still loading: see wait_healthy).

        ``options`` are the program's own (device, dtype, max_running_requests, context_length, seed, threads); None is
        left out. Raises ChildDied when it ends before that, for example because the port is in use or the model path
        does not exist.
        """
        log = Path(log)
        ready = log.with_name(f"{log.name}.{os.getpid()}.{time.monotonic_ns()}.ready")
        command = [sys.executable, "-m", "areal_gsm8k.serve", "--model-path", str(model_path)]
        command += ["--host", host, "--port", str(port), "--ready-file", str(ready)]
        for option, value in options.items():
            if value is not None:
                command += ["--" + option.replace("_", "-"), str(value)]
        # The package may be used from a source tree that is not the working directory.
        path = {"PYTHONPATH": os.pathsep.join(filter(None, [IMPORTABLE, os.environ.get("PYTHONPATH")]))}
        super().__init__(name, command, log, path | MEMORY_IS_KEPT | (environment or {}))
        try:
            self.host, self.port = self._await_port(ready)
        except BaseException:
            self.stop()
            raise
        finally:
            ready.unlink(missing_ok=True)

    @property
    def url(self) -> str:
        return f"http://[{self.host}]:{self.port}" if ":" in self.host else f"http://{self.host}:{self.port}"

    def _await_port(self, ready: Path) -> tuple[str, int]:
        deadline = time.monotonic() + BIND_SECONDS
        while not ready.exists():
            self.check()
            if time.monotonic() > deadline:
                raise TimeoutError(self.report(f"did not bind its port within {BIND_SECONDS:.0f} s"))
            time.sleep(0.02)
        bound = json.loads(ready.read_text(encoding="utf-8"))
        return bound["host"], bound["port"]

    def wait_healthy(self, timeout: float = 300.0) -> None:
        """Return once /health answers 200. Raises ChildDied if the process ends, TimeoutError after ``timeout`` s."""
        deadline = time.monotonic() + timeout
        # No proxy from the environment: the server is on this machine.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        while True:
            self.check()
            try:
                with opener.open(f"{self.url}/health", timeout=5) as response:
                    if response.status == 200:
                        return
            except (urllib.error.URLError, OSError):
                pass
            if time.monotonic() > deadline:
                raise TimeoutError(self.report(f"was not healthy within {timeout:.0f} s"))
            time.sleep(0.05)

    def __enter__(self) -> ServerProcess:
        return self

    def __exit__(self, *exception) -> None:
        self.stop()
