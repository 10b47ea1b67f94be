"""A tiny random Qwen2 with a tokenizer, the server under test, and Hugging Face itself as the reference.

The contract (test_generation, test_controls, test_errors) speaks HTTP only, through ``client``: the embedded server
and, with --sglang, real SGLang, one after the other.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from hf_reference import Reference, save_model, save_tokenizer
from sglang_client import Client
from sglang_server import SGLangServer

from areal_gsm8k.serve.process import ServerProcess

LIMITS = {"context_length": 1024, "max_running_requests": 64}


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
def embedded(tmp_path_factory, folder) -> Iterator[Client]:
    """Our own server, one for the session."""
    log = tmp_path_factory.mktemp("server") / "server.log"
    with ServerProcess(folder, log, **LIMITS) as server:
        server.wait_healthy(timeout=120)
        yield Client(server.url)


@pytest.fixture(scope="session")
def sglang_wanted(pytestconfig) -> None:
    """Skips what needs real SGLang unless --sglang was given."""
    if not pytestconfig.getoption("--sglang"):
        pytest.skip("needs real SGLang: ./run test --sglang")


@pytest.fixture(scope="session")
def sglang(tmp_path_factory, folder, sglang_wanted) -> Iterator[Client]:
    """Real SGLang, one for the session."""
    log = tmp_path_factory.mktemp("sglang") / "server.log"
    with SGLangServer(folder, log, **LIMITS) as server:
        server.wait_healthy()
        yield Client(server.url)
        server.check()  # still alive after all that was sent to it


def pytest_generate_tests(metafunc):
    """A test that asks for ``client`` runs against each server."""
    if "client" in metafunc.fixturenames:
        servers = ["embedded", "sglang"] if metafunc.config.getoption("--sglang") else ["embedded"]
        metafunc.parametrize("client", servers, indirect=True, scope="session")


@pytest.fixture(scope="session")
def client(request) -> Client:
    """The server under test."""
    return request.getfixturevalue(request.param)


@pytest.fixture
def swappable(client, folder):
    """The client, for a test that changes weights or pauses: afterwards it generates with the first weights again."""
    yield client
    client.call("/abort_request", {"abort_all": True})
    client.call("/continue_generation", {})
    status, answer = client.update_weights(folder, abort_all_requests=True)
    assert status == 200, answer
