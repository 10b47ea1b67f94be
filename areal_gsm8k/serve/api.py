"""SGLang's HTTP interface over the engine, closely enough that its clients (AReaL's RemoteSGLangEngine) work unchanged.

aiohttp rather than FastAPI: with 64 small requests at once both cost about 0.27 ms of CPU a request (aiohttp 0.26,
FastAPI on uvicorn 0.27-0.29), but aiohttp cancels a handler when its client goes away, which frees the slot without a
watcher task a request, imports faster, and AReaL's client is aiohttp as well.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Awaitable, Callable

from aiohttp import web

from . import protocol
from .protocol import MalformedBody
from .request import Request
from .weights import WeightsError
from .worker import EngineThread

log = logging.getLogger("areal_gsm8k.serve")
MAX_BODY = 256 << 20  # bytes of one request
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def _json(content: object, status: int = 200) -> web.Response:
    return web.Response(text=json.dumps(content), status=status, content_type="application/json")


def _error(message: str, status: int = 400) -> web.Response:
    return _json({"error": {"message": message}}, status)


def _malformed(message: str) -> web.Response:
    return _json({"object": "error", "message": message, "type": "Bad Request", "param": None, "code": 400}, 400)


@web.middleware
async def _errors_as_json(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except MalformedBody as error:
        return _malformed(str(error))
    except ValueError as error:
        return _error(str(error))
    except web.HTTPException as error:
        return _json({"detail": error.reason}, error.status)
    except ConnectionError:  # the client of a stream is gone
        raise
    except Exception as error:
        log.exception("%s failed", request.path)
        return _error(f"{type(error).__name__}: {error}", 500)


async def _body(request: web.Request) -> dict:
    """The JSON object of a call; an empty body is an empty object."""
    raw = await request.read()
    try:
        body = json.loads(raw) if raw else {}
    except ValueError as error:
        raise MalformedBody(f"the body is not JSON: {error}") from error
    if not isinstance(body, dict):
        raise MalformedBody("the body must be a JSON object")
    return body


class Api:
    """The routes. Model work happens on the engine's thread; no handler blocks the event loop."""

    def __init__(self, worker: EngineThread):
        self.worker = worker
        self.engine = worker.engine
        self.started = int(time.time())

    def app(self) -> web.Application:
        app = web.Application(client_max_size=MAX_BODY, middlewares=[_errors_as_json])
        get, post = app.router.add_get, app.router.add_post
        post("/generate", self.generate)
        get("/health", self.health)
        get("/health_generate", self.health_generate)
        get("/model_info", self.model_info)
        get("/get_model_info", self.model_info)
        get("/server_info", self.server_info)
        get("/get_server_info", self.server_info)
        get("/v1/models", self.models)
        post("/pause_generation", self.pause)
        post("/continue_generation", self.resume)
        post("/abort_request", self.abort)
        get("/flush_cache", self.flush)
        post("/flush_cache", self.flush)
        post("/update_weights_from_disk", self.update_weights)
        return app

    # -- generation ----------------------------------------------------------------------------------------------------

    async def generate(self, http: web.Request) -> web.StreamResponse:
        body = await _body(http)
        try:
            requests, batched = protocol.parse(body, self.engine)
        except ValueError as error:
            if not body.get("stream") or isinstance(error, MalformedBody):
                raise
            event = json.dumps({"error": {"message": str(error)}})
            return web.Response(text=f"data: {event}\n\ndata: [DONE]\n\n", content_type="text/event-stream")
        if body.get("stream"):
            if batched:
                raise ValueError("stream is supported for one prompt and one sample at a time")
            return await self._stream(http, requests[0])
        try:
            done = await asyncio.gather(*self.worker.submit(requests))
        except asyncio.CancelledError:
            self.worker.drop(requests)
            raise
        for request in done:
            if status := request.finish_reason.get("status_code"):
                return _error(request.finish_reason["message"], status)
        answers = [protocol.answer(request) for request in done]
        return _json(answers if batched else answers[0])

    async def _stream(self, http: web.Request, request: Request) -> web.StreamResponse:
        """Server-sent events: the whole answer so far after each token, then [DONE]."""
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-cache"})
        await response.prepare(http)
        progress = self.worker.stream(request)
        try:
            finished = False
            while not finished:
                count, finished = await progress.get()
                while not progress.empty():
                    count, finished = progress.get_nowait()
                chunk = protocol.answer(request, None if finished else count)
                await response.write(b"data: " + json.dumps(chunk).encode() + b"\n\n")
            await response.write(b"data: [DONE]\n\n")
        except (asyncio.CancelledError, ConnectionError):
            self.worker.drop([request])
            raise
        return response

    # -- what is served ------------------------------------------------------------------------------------------------

    async def health(self, http: web.Request) -> web.Response:
        return web.Response(status=200 if self.worker.is_alive() else 503)

    async def health_generate(self, http: web.Request) -> web.Response:
        """200 once a token was generated (or at once while paused: nothing would come before the continue)."""
        if self.worker.is_alive() and not self.engine.paused:
            request = protocol.health_request(self.engine)
            await self.worker.submit([request])[0]
            reason = request.finish_reason or {}
            if reason.get("type") == "abort" and reason.get("status_code"):
                return web.Response(status=503)
        return await self.health(http)

    async def model_info(self, http: web.Request) -> web.Response:
        config = self.engine.model.config
        return _json(
            {
                "model_path": self.engine.path,
                "tokenizer_path": self.engine.tokenizer_path,
                "is_generation": True,
                "preferred_sampling_params": None,
                "weight_version": self.engine.weight_version,
                "has_image_understanding": False,
                "has_audio_understanding": False,
                "model_type": config.model_type,
                "architectures": config.architectures,
            }
        )

    async def server_info(self, http: web.Request) -> web.Response:
        state = {"last_gen_throughput": self.engine.throughput.rate()}
        return _json({"model_path": self.engine.path, "internal_states": [state]})

    async def models(self, http: web.Request) -> web.Response:
        card = {
            "id": self.engine.path,
            "object": "model",
            "created": self.started,
            "owned_by": "areal-gsm8k",
            "root": self.engine.path,
            "parent": None,
            "max_model_len": self.engine.model.context_length,
        }
        return _json({"object": "list", "data": [card]})

    # -- controls ------------------------------------------------------------------------------------------------------

    async def pause(self, http: web.Request) -> web.Response:
        try:
            await self.worker.call(self.engine.pause, (await _body(http)).get("mode", "abort"))
        except ValueError as error:
            raise MalformedBody(str(error)) from error
        return _json({"message": "Generation paused successfully.", "status": "ok"})

    async def resume(self, http: web.Request) -> web.Response:
        await _body(http)
        await self.worker.call(self.engine.resume)
        return _json({"message": "Generation continued successfully.", "status": "ok"})

    async def abort(self, http: web.Request) -> web.Response:
        """Abort by rid (a prefix, as in SGLang: the samples of a batch go together), or all; without either, none."""
        body = await _body(http)
        rid = body.get("rid")
        match = (lambda r: True) if body.get("abort_all") else (lambda r: bool(rid) and r.rid.startswith(rid))
        await self.worker.call(self.engine.abort, match, not body.get("abort_all"))
        return web.Response()

    async def flush(self, http: web.Request) -> web.Response:
        done = await self.worker.call(self.engine.flush)
        if done:
            return web.Response(text="Cache flushed.\n")
        return web.Response(text="Cache not flushed: requests are running or waiting.\n", status=400)

    async def update_weights(self, http: web.Request) -> web.Response:
        """Update at once while paused, else once the running requests are done, or aborted (abort_all_requests)."""
        body = await _body(http)
        path = body.get("model_path")
        if not isinstance(path, str):
            raise MalformedBody(f"model_path must be the path of a Hugging Face model folder, got {path!r}")
        if body.get("abort_all_requests"):
            await self.worker.call(self.engine.abort, lambda r: True)
        started = time.monotonic()
        try:
            await self.worker.call(self.engine.update_weights, path, body.get("weight_version"), when_idle=True)
        except WeightsError as error:
            log.warning("weights not updated: %s", error)
            return _json({"success": False, "message": str(error), "num_paused_requests": 0}, 400)
        log.info("weights updated from %s in %.3f s", path, time.monotonic() - started)
        message = "Succeeded to update model weights."
        return _json({"success": True, "message": message, "num_paused_requests": 0})
