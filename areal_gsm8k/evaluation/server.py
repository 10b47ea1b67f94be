"""Rollout servers started for one evaluation: ours, SGLang's or vLLM's, each a child that ends with its parent."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from areal_gsm8k.children import Child
from areal_gsm8k.evaluation.model import Model
from areal_gsm8k.machine.network import free_port
from areal_gsm8k.paths import IMPORTABLE
from areal_gsm8k.serve.process import ServerProcess

START_SECONDS = 1800.0  # in which a large model is read and CUDA graphs are captured
MODULES = {"sglang": "sglang.launch_server", "vllm": "vllm.entrypoints.openai.api_server"}
# Without this vLLM would take missing values of a request from the model's own generation_config.json.
OPTIONS = {"sglang": ["--model-path"], "vllm": ["--generation-config", "vllm", "--model"]}
WATCHED = (
    "import runpy, sys; from areal_gsm8k.children import die_with_parent; die_with_parent(take_children=True); "
    "runpy.run_module(sys.argv.pop(1), run_name='__main__', alter_sys=True)"
)


class ForeignServer(ServerProcess):
    """SGLang's or vLLM's own server, of an installed package, on one GPU; waited for and stopped as ours is."""

    def __init__(self, kind: str, folder: Path, log: Path, dtype: str):
        self.host, self.port = "127.0.0.1", free_port()
        command = [sys.executable, "-c", WATCHED, MODULES[kind], *OPTIONS[kind], str(folder)]
        command += ["--host", self.host, "--port", str(self.port), "--dtype", dtype]
        path = os.pathsep.join(filter(None, [IMPORTABLE, os.environ.get("PYTHONPATH")]))
        Child.__init__(self, f"{kind} server", command, log, {"PYTHONPATH": path})


def started(kind: str, model: Model, log: Path, max_running_requests: int, dtype: str) -> ServerProcess:
    """A healthy server for a `with` block. Raises ChildDied when it ends before, TimeoutError after half an hour."""
    if kind == "embedded":
        options = {"max_running_requests": max_running_requests, "threads": model.cpu_threads, "dtype": dtype}
        server = ServerProcess(model.folder, log, name="embedded server", **options)
    else:
        server = ForeignServer(kind, model.folder, log, dtype)
    try:
        server.wait_healthy(START_SECONDS)
    except BaseException:
        server.stop()
        raise
    return server
