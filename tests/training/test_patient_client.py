import asyncio
import socket

import pytest

pytest.importorskip("areal", reason="areal is not installed")

from areal.api import ModelResponse
from areal.api.cli_args import InferenceEngineConfig
from areal.infra.remote_inf_engine import RemoteInfEngine
from areal.infra.utils.http import arequest_with_retry

from areal_gsm8k.training import patient_client
from areal_gsm8k.training.patient_client import Attempts, PatientClient, is_unreachable

ANSWERS = {
    "refuses": b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n",
    "dies before its answer": b"",
    "dies in its answer": b"HTTP/1.1 200 OK\r\nContent-Length: 999\r\nContent-Type: application/json\r\n\r\n{",
}


async def ask(answer: bytes | None) -> Exception:
    """What AReaL's request raises against a server that answers so and closes; None: nobody listens."""

    async def serve(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    if answer is None:
        server.close()
    with pytest.raises((RuntimeError, ConnectionError)) as raised:
        await arequest_with_retry(address, "/generate", {}, max_retries=1)
    server.close()
    return raised.value


def test_a_dead_server_is_told_from_one_that_refuses():
    assert is_unreachable(asyncio.run(ask(None)))
    told = {name: is_unreachable(asyncio.run(ask(answer))) for name, answer in ANSWERS.items()}
    assert told == {"refuses": False, "dies before its answer": True, "dies in its answer": True}


@pytest.fixture
def patient(monkeypatch):
    """A client of one server that is down; `monkeypatch` gives AReaL's requests."""
    monkeypatch.setattr(patient_client, "RETRY_SECONDS", 0.01)
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        bare = object.__new__(PatientClient)
        bare.refusals, bare.patience, bare.addresses = 3, 30.0, [f"127.0.0.1:{bound.getsockname()[1]}"]
        yield bare, bound


def test_what_met_a_dead_server_waits_for_the_next(patient, monkeypatch):
    bare, bound = patient
    gone = asyncio.run(ask(None))
    asked, completion = [], ModelResponse()

    async def agenerate(self, req):
        asked.append(req)
        if not patient_client.is_listening(self.addresses[0]):
            raise gone
        return completion

    async def restarted_a_little_later():
        waiting = asyncio.create_task(bare.agenerate("request"))
        await asyncio.sleep(0.1)
        assert not waiting.done()
        bound.listen()
        return await waiting

    monkeypatch.setattr(RemoteInfEngine, "agenerate", agenerate)
    assert asyncio.run(restarted_a_little_later()) is completion
    assert asked == ["request"] * 2  # not asked while nobody listened


def test_patience_ends_and_refusals_are_counted(patient, monkeypatch):
    bare, bound = patient
    bare.patience = 0.05
    gone, refusal = asyncio.run(ask(None)), asyncio.run(ask(ANSWERS["refuses"]))
    asked = []

    def pause(self, req):
        asked.append(req)
        raise refusal if patient_client.is_listening(self.addresses[0]) else gone

    monkeypatch.setattr(RemoteInfEngine, "_run_request_on_all_servers", pause)
    with pytest.raises(RuntimeError, match="ClientConnectorError"):
        bare._run_request_on_all_servers("pause")  # noqa: SLF001 - called by AReaL's client
    assert len(asked) == 1
    bound.listen()
    with pytest.raises(RuntimeError, match="ClientResponseError"):
        bare._run_request_on_all_servers("pause")  # noqa: SLF001 - called by AReaL's client
    assert len(asked) == 1 + bare.refusals


def test_no_patience_is_one_attempt():
    with pytest.raises(ConnectionError):
        Attempts(refusals=3, patience=0).another(ConnectionError())


def test_without_patience_areal_repeats_its_requests_itself():
    config = InferenceEngineConfig(backend="vllm:d1", request_retries=3)
    assert PatientClient(config, backend=None, patience=0).config.request_retries == 3
    assert PatientClient(config, backend=None, patience=9).config.request_retries == 1
