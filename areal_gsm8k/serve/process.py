"""The rollout server as a child process: started, watched, stopped; it dies with its parent.

server = ServerProcess.start("checkpoints/start", "logs/server.log", seed=1)
server.wait_healthy(timeout=60)
...
if message := server.poll_death():
    raise ServerDied(message)
server.stop()
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

TAIL_LINES = 20
BIND_TIMEOUT = 30.0  # seconds for a new interpreter to bind its port; torch is imported after that


class ServerDied(RuntimeError):
    """The server's process ended. The message holds the command, how it ended, the log's path and its last lines."""


class ServerProcess:
    """One running server. Attributes: url, host, port, pid, command (a list), log_path."""

    def __init__(self, process: subprocess.Popen, command: list[str], log_path: Path):
        self.process = process
        self.command = command
        self.log_path = log_path
        self.pid = process.pid
        self.host, self.port = "", 0

    @classmethod
    def start(cls, model_path: str, log_path: str, host: str = "127.0.0.1", port: int = 0, **options) -> ServerProcess:
        """Start a server and return once its port is bound (the model is still loading: see wait_healthy).

        ``options`` are the program's own (device, dtype, max_running_requests, context_length, seed, threads); None is
        left out. Output is appended to ``log_path``. Raises ServerDied when it ends before that, for example because
        the port is in use or the model path does not exist.
        """
        log = Path(log_path)
        log.parent.mkdir(parents=True, exist_ok=True)
        ready = log.with_name(f"{log.name}.{os.getpid()}.{time.monotonic_ns()}.ready")
        command = [sys.executable, "-m", "areal_gsm8k.serve", "--model-path", str(model_path)]
        command += ["--host", host, "--port", str(port), "--ready-file", str(ready), "--parent-pid", str(os.getpid())]
        if threading.current_thread() is threading.main_thread():
            command.append("--parent-death-signal")
        for name, value in options.items():
            if value is not None:
                command += ["--" + name.replace("_", "-"), str(value)]
        # The package may be used from a source tree that is not the working directory.
        root = str(Path(__file__).resolve().parents[2])
        environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
        with log.open("ab") as output:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, env=environment
            )
        server = cls(process, command, log)
        try:
            server._await_port(ready)
        except BaseException:
            server.stop()
            raise
        finally:
            ready.unlink(missing_ok=True)
        return server

    @property
    def url(self) -> str:
        return f"http://[{self.host}]:{self.port}" if ":" in self.host else f"http://{self.host}:{self.port}"

    def _await_port(self, ready: Path) -> None:
        deadline = time.monotonic() + BIND_TIMEOUT
        while not ready.exists():
            self._raise_if_dead()
            if time.monotonic() > deadline:
                raise TimeoutError(self._report(f"did not bind its port within {BIND_TIMEOUT:.0f} s"))
            time.sleep(0.02)
        bound = json.loads(ready.read_text(encoding="utf-8"))
        self.host, self.port = bound["host"], bound["port"]

    def wait_healthy(self, timeout: float = 300.0) -> None:
        """Return once /health answers 200. Raises ServerDied when it ends, TimeoutError after ``timeout`` seconds."""
        deadline = time.monotonic() + timeout
        # No proxy from the environment: the server is on this machine.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        while True:
            self._raise_if_dead()
            try:
                with opener.open(f"{self.url}/health", timeout=5) as response:
                    if response.status == 200:
                        return
            except (urllib.error.URLError, OSError):
                pass
            if time.monotonic() > deadline:
                raise TimeoutError(self._report(f"was not healthy within {timeout:.0f} s"))
            time.sleep(0.05)

    def poll_death(self) -> str | None:
        """None while the server runs; else what happened, in words, with the tail of its log."""
        code = self.process.poll()
        if code is None:
            return None
        if code >= 0:
            return self._report(f"ended with exit code {code}")
        try:
            name = signal.Signals(-code).name
        except ValueError:
            name = "unknown"
        return self._report(f"was killed by signal {-code} ({name})")

    def _raise_if_dead(self) -> None:
        if message := self.poll_death():
            raise ServerDied(message)

    def _report(self, what: str) -> str:
        return (
            f"rollout server {what}\n  command: {shlex.join(self.command)}\n  log: {self.log_path}, its last lines:\n"
            + "\n".join(f"    {line}" for line in self._tail())
        )

    def _tail(self) -> list[str]:
        try:
            with self.log_path.open("rb") as file:
                file.seek(max(0, self.log_path.stat().st_size - 16384))
                lines = file.read().decode(errors="replace").splitlines()
        except OSError as error:
            return [f"(not readable: {error})"]
        return lines[-TAIL_LINES:] or ["(empty)"]

    def stop(self, grace: float = 5.0) -> None:
        """TERM, and KILL after ``grace`` seconds. Harmless when the server has already ended."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(grace)
            except subprocess.TimeoutExpired:
                self.process.kill()
        self.process.wait()

    def __enter__(self) -> ServerProcess:
        return self

    def __exit__(self, *exception) -> None:
        self.stop()
