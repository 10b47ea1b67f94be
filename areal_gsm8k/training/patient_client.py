"""AReaL's client of rollout servers, which here waits for a server that is being restarted.

The launcher restarts a dead embedded server (launch/processes.py). A start takes longer than AReaL's
`rollout.request_retries` tries a second apart, after which AReaL would drop the sample. Here a request that met a dead
server waits for the next one: a completion is generated anew from its prompt; a pause, update or continue is repeated.
"""

import asyncio
import re
import socket
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from typing import Any

from areal.api import ModelRequest, ModelResponse, WeightUpdateMeta
from areal.api.cli_args import InferenceEngineConfig
from areal.infra.remote_inf_engine import RemoteInfEngine
from typing_extensions import override

from areal_gsm8k.training.weight_versions import VersionedClient

RETRY_SECONDS = 0.5
# AReaL puts aiohttp's exception into the text of a RuntimeError (areal/infra/utils/http.py) and nowhere else.
NO_ANSWER = re.compile(
    r"Last error: (Client(Connector|Connection|ConnectionReset|OS|Payload)Error|ServerDisconnectedError)\("
)


def is_unreachable(failure: Exception) -> bool:
    """Whether there was no whole answer, as from a dead server; False when the server answered with an error."""
    return isinstance(failure, ConnectionError) or bool(NO_ANSWER.search(str(failure)))


def is_listening(address: str) -> bool:
    """Whether a server takes connections at host:port; an embedded one does once its model is loaded."""
    host, port = address.rsplit(":", 1)
    try:
        socket.create_connection((host, int(port)), timeout=1).close()
    except OSError:
        return False
    return True


class Attempts:
    """How often one request is made: `refusals` times when the server answers with an error, and for `patience`
    seconds from the first time that it does not answer."""

    def __init__(self, refusals: int, patience: float):
        self.refusals, self.patience = refusals, patience
        self.deadline: float | None = None

    def another(self, failure: Exception) -> None:
        """Return when the request may be made again; raise `failure` otherwise."""
        if is_unreachable(failure):
            self.deadline = self.deadline or time.monotonic() + self.patience
            if time.monotonic() < self.deadline:
                return
        else:
            self.refusals -= 1
            if self.refusals > 0:
                return
        raise failure


class PatientClient(VersionedClient):
    """AReaL's client, with its requests repeated here: AReaL itself makes each once.

    A completion that met a dead server starts again from its prompt, at the top of `agenerate`.
    """

    def __init__(self, config: InferenceEngineConfig, backend, patience: float):
        """`patience`: seconds to wait for a dead server's restart; 0 where nobody restarts one: AReaL's own retries."""
        self.refusals, self.patience = config.request_retries, patience
        super().__init__(replace(config, request_retries=1) if patience else config, backend)

    @override
    async def agenerate(self, req: ModelRequest) -> ModelResponse:
        attempts = self._attempts()
        while True:
            try:
                return await super().agenerate(req)
            except (RuntimeError, ConnectionError) as failure:
                attempts.another(failure)
                await asyncio.sleep(RETRY_SECONDS)
                while not self._all_listening():
                    attempts.another(failure)
                    await asyncio.sleep(RETRY_SECONDS)

    @override
    def update_weights_from_disk(self, meta: WeightUpdateMeta) -> Future[None]:
        """Return once every server serves the folder `meta.path`."""

        def load() -> Future[None]:
            loading = RemoteInfEngine.update_weights_from_disk(self, meta)
            loading.result()
            return loading

        return self._repeat(load)

    @override
    def _run_request_on_all_servers(self, req) -> None:
        self._repeat(lambda: RemoteInfEngine._run_request_on_all_servers(self, req))  # noqa: SLF001 - AReaL has no public form (areal_contract.py)

    def _repeat(self, request: Callable[[], Any]) -> Any:
        attempts = self._attempts()
        while True:
            try:
                return request()
            except (RuntimeError, ConnectionError) as failure:
                attempts.another(failure)
                time.sleep(RETRY_SECONDS)
                while not self._all_listening():
                    attempts.another(failure)
                    time.sleep(RETRY_SECONDS)

    def _attempts(self) -> Attempts:
        return Attempts(self.refusals if self.patience else 1, self.patience)

    def _all_listening(self) -> bool:
        return all(is_listening(address) for address in self.addresses)
