"""The HTTP engines: many requests at once to a rollout server that speaks SGLang's or vLLM's interface.

SGLang's native /generate is also the embedded server's; vLLM is asked through its /v1/completions. Both take token ids,
so every engine sees the very same prompt, and every sampling parameter is sent, because servers otherwise take a
model's own defaults (a repetition penalty, say).
"""

from __future__ import annotations

import asyncio
import json
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator

import aiohttp

from areal_gsm8k.data.prompts import stop_ids
from areal_gsm8k.evaluation.engine import Answer, CompletionRequest, Deliver
from areal_gsm8k.evaluation.model import Model
from areal_gsm8k.evaluation.settings import EvaluationError, EvaluationSettings

TRIES = 4
PAUSE_SECONDS = 0.5  # before the second try; doubled before each further one
ANSWER_SECONDS = 1800  # for one completion, its time in the server's queue included
CONNECT_SECONDS = 10
LONGEST_EVENT = 1 << 24  # bytes of one event of a stream, each of which holds the whole answer so far


class Client:
    """A server and its dialect. check: raises ChildDied when the server is a child of ours that has died."""

    def __init__(
        self, kind: str, url: str, model: Model, settings: EvaluationSettings, check: Callable[[], None] = lambda: None
    ):
        """Raises EvaluationError when nothing answers at the URL."""
        self.served = served_model(url)
        self.kind, self.url, self.settings, self.check = kind, url.rstrip("/"), settings, check
        self.tokenizer = model.tokenizer
        self.stop_ids = stop_ids(model.tokenizer)
        self.path = "/v1/completions" if kind == "vllm" else "/generate"
        self.body, self.read = (self._vllm, self._of_vllm) if kind == "vllm" else (self._sglang, self._of_sglang)
        self.joined = _joined_vllm if kind == "vllm" else _joined_sglang

    def answer(self, requests: list[CompletionRequest], deliver: Deliver) -> None:
        """Answer the requests in the order given, `batch_size` at a time."""
        try:
            asyncio.run(self._answer_all(requests, deliver))
        except ExceptionGroup as group:  # of the workers; one reason ended them all
            raise group.exceptions[0] from None

    async def _answer_all(self, requests: list[CompletionRequest], deliver: Deliver) -> None:
        """Run as many workers as requests may be under way; all take from one list."""
        left = iter(requests)
        timeout = aiohttp.ClientTimeout(total=ANSWER_SECONDS, sock_connect=CONNECT_SECONDS)
        connector = aiohttp.TCPConnector(limit=0)
        async with (
            aiohttp.ClientSession(timeout=timeout, connector=connector) as session,
            asyncio.TaskGroup() as workers,
        ):
            for _ in range(min(self.settings.batch_size, len(requests))):
                workers.create_task(self._work(session, left, deliver))

    async def _work(self, session: aiohttp.ClientSession, left: Iterator[CompletionRequest], deliver: Deliver) -> None:
        for request in left:
            deliver([(request, await self._ask(session, request))])

    async def _ask(self, session: aiohttp.ClientSession, request: CompletionRequest) -> Answer:
        """One completion; asked again when the server was busy, broke off or could not be reached."""
        reason, unreachable = "", False
        for attempt in range(TRIES):
            if attempt:
                await asyncio.sleep(PAUSE_SECONDS * 2 ** (attempt - 1))
            try:
                async with session.post(self.url + self.path, json=self.body(request)) as response:
                    unreachable = False
                    if response.status == 200:
                        return self.read(await response.json(content_type=None), request)
                    reason = f"HTTP {response.status}: {(await response.text())[:300]}"
                    if response.status < 500 and response.status not in (408, 429):
                        break
            except Aborted as abort:
                reason = f"the server aborted it: {abort}"
            except (aiohttp.ClientError, TimeoutError, ValueError, LookupError, TypeError) as failure:
                self.check()
                reason, unreachable = _named(failure), isinstance(failure, aiohttp.ClientConnectorError)
        if unreachable:
            raise EvaluationError(
                f"{self.url} cannot be reached any more ({reason}); the same command goes on from here"
            )
        return Answer(error=reason)

    async def stream(self, request: CompletionRequest, tell: Callable[[str], None]) -> Answer:
        """One completion, asked for once; both servers stop generating when the connection is closed."""
        body = self.body(request) | {"stream": True}
        if self.kind == "vllm":
            body["stream_options"] = {"include_usage": True}
        timeout = aiohttp.ClientTimeout(total=ANSWER_SECONDS, sock_connect=CONNECT_SECONDS)
        answer: dict = {}
        try:
            async with (
                aiohttp.ClientSession(timeout=timeout, read_bufsize=LONGEST_EVENT) as session,
                session.post(self.url + self.path, json=body) as response,
            ):
                if response.status != 200:
                    return Answer(error=f"HTTP {response.status}: {(await response.text())[:300]}")
                async for event in _events(response.content):
                    if "error" in event:
                        return Answer(error=f"the server refused it: {json.dumps(event['error'])[:300]}")
                    answer, text = self.joined(answer, event)
                    tell(text)
            return self.read(answer, request)
        except Aborted as abort:
            return Answer(error=f"the server aborted it: {abort}")
        except (aiohttp.ClientError, TimeoutError, ValueError, LookupError, TypeError) as failure:
            await asyncio.sleep(PAUSE_SECONDS)  # a server that is dying shows it a moment later
            self.check()
            return Answer(error=_named(failure))

    def _sampling(self) -> dict:
        """The keys of both dialects; neutral values are sent too, because servers have defaults of their own."""
        neutral = {"top_p": 1.0, "top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0}
        return neutral | {"temperature": self.settings.temperature, "stop_token_ids": self.stop_ids}

    # -- SGLang, and our embedded server -------------------------------------------------------------------------------

    def _sglang(self, request: CompletionRequest) -> dict:
        sampling = {"max_new_tokens": request.max_new_tokens, **self._sampling()}
        if self.kind == "embedded":  # SGLang heeds a seed in its deterministic mode only, and old versions refuse one
            sampling["sampling_seed"] = request.seed
        return {"input_ids": request.prompt_ids, "sampling_params": sampling}

    def _of_sglang(self, answer: dict, request: CompletionRequest) -> Answer:
        finish, ids = answer["meta_info"]["finish_reason"], answer["output_ids"]
        if finish["type"] == "abort":
            raise Aborted(finish.get("message"))
        # SGLang says "length" also of a completion whose last allowed token ended it.
        truncated = finish["type"] == "length" and not (ids and ids[-1] in self.stop_ids)
        return Answer(self.tokenizer.decode(ids, skip_special_tokens=True), len(ids), truncated)

    # -- vLLM ----------------------------------------------------------------------------------------------------------

    def _vllm(self, request: CompletionRequest) -> dict:
        return {
            "model": self.served,
            "prompt": request.prompt_ids,
            "max_tokens": request.max_new_tokens,
            **self._sampling(),
            "seed": request.seed,
        }

    def _of_vllm(self, answer: dict, request: CompletionRequest) -> Answer:
        choice = answer["choices"][0]
        if choice["finish_reason"] not in ("stop", "length"):
            raise Aborted(choice["finish_reason"])
        return Answer(choice["text"], answer["usage"]["completion_tokens"], choice["finish_reason"] == "length")


async def _events(content: aiohttp.StreamReader) -> AsyncIterator[dict]:
    """The JSON objects of server-sent events. Raises ValueError when the stream breaks off before its [DONE]."""
    async for line in content:
        if line.startswith(b"data:"):
            data = line[5:].strip()
            if data == b"[DONE]":
                return
            yield json.loads(data)
    raise ValueError("the stream broke off")


def _joined_sglang(_: dict, event: dict) -> tuple[dict, str]:
    """(answer so far, its text): every event is the whole answer so far."""
    if len(event["output_ids"]) < event["meta_info"].get("completion_tokens", 0):
        raise ValueError("the server streams pieces; start SGLang without its option for incremental streaming")
    return event, event["text"]


def _joined_vllm(answer: dict, event: dict) -> tuple[dict, str]:
    """(answer so far, its text): every event adds a piece, the last one the count of tokens."""
    whole = answer or {"choices": [{"text": "", "finish_reason": None}], "usage": None}
    choice = whole["choices"][0]
    for piece in event["choices"]:
        choice["text"] += piece["text"]
        choice["finish_reason"] = piece["finish_reason"]
    whole["usage"] = event.get("usage") or whole["usage"]
    return whole, choice["text"]


class Aborted(RuntimeError):
    """The server gave the request up."""


def dialect_of(url: str) -> str:
    """ "sglang" when the server at the URL has SGLang's /get_model_info, else "vllm"."""
    return "vllm" if _get(url.rstrip("/"), "/get_model_info") is None else "sglang"


def served_model(url: str) -> str:
    """The model's name there. Raises EvaluationError when no server answers."""
    models = _get(url.rstrip("/"), "/v1/models")
    if models is None:
        raise EvaluationError(f"{url}: no server answers there (/v1/models); start one, or leave the URL out")
    return models["data"][0]["id"]


def _get(url: str, path: str) -> dict | None:
    """The JSON there, None when there is none. No proxy from the environment, as with the requests to come."""
    try:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(url + path, timeout=10) as response:
            return json.load(response)
    except (urllib.error.URLError, OSError, ValueError):
        return None


def _named(failure: Exception) -> str:
    return f"{type(failure).__name__}: {failure}"
