"""A tiny random Qwen2 with a tokenizer, the server under test, and Hugging Face itself as the reference.

The contract (test_generation, test_controls) speaks HTTP only. ``launch`` is the one place that knows which server it
speaks to, so another server of the same interface can take the embedded one's place.
"""

from __future__ import annotations

import pytest
import torch
from hf_reference import Reference, save_model, save_tokenizer
from sglang_client import Client


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def folder(tmp_path_factory) -> str:
    """The model the server starts with."""
    path = save_model(tmp_path_factory.mktemp("model") / "first", seed=0)
    save_tokenizer(path)
    return path


@pytest.fixture(scope="session")
def other_folder(tmp_path_factory) -> str:
    """Other weights for the same model."""
    path = save_model(tmp_path_factory.mktemp("model") / "second", seed=1)
    save_tokenizer(path)
    return path


@pytest.fixture(scope="session")
def reference(folder) -> Reference:
    return Reference(folder)


@pytest.fixture(scope="session")
def other_reference(other_folder) -> Reference:
    return Reference(other_folder)


@pytest.fixture(scope="session")
def launch(tmp_path_factory):
    """launch(folder) -> url of a server under test, ended with the session."""
    from areal_gsm8k.serve.process import ServerProcess

    running = []

    def start(path: str) -> str:
        log = tmp_path_factory.mktemp("server") / "server.log"
        running.append(ServerProcess(path, str(log), context_length=1024, max_running_requests=64))
        running[-1].wait_healthy(timeout=120)
        return running[-1].url

    yield start
    for server in running:
        server.stop()


@pytest.fixture(scope="session")
def client(launch, folder) -> Client:
    return Client(launch(folder))


@pytest.fixture
def swappable(client, folder):
    """The client, for a test that changes weights or pauses: afterwards it generates with the first weights again."""
    yield client
    client.call("/abort_request", {"abort_all": True})
    client.call("/continue_generation", {})
    status, answer = client.call("/update_weights_from_disk", {"model_path": folder, "abort_all_requests": True})
    assert status == 200, answer
