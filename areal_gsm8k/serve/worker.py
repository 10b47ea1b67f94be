"""The engine's own thread, and the way the event loop talks to it.

The loop posts calls into a queue; the thread runs them between two tokens, so a pause, an abort or a weight update
takes effect within one token's time. The requests that finished in a step go back to the loop in one callback.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue

from .engine import Engine
from .request import Request

log = logging.getLogger("areal_gsm8k.serve")


class EngineThread(threading.Thread):
    """Drives ``engine``. All methods but ``run`` are called from the event loop ``loop``.

    ``on_failure`` is called in the loop when the thread itself breaks, as no request would be answered any more.
    """

    def __init__(self, engine: Engine, loop: asyncio.AbstractEventLoop, on_failure: Callable[[], None]):
        super().__init__(name="engine", daemon=True)
        self.engine = engine
        self.loop = loop
        self.on_failure = on_failure
        self.calls: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self.when_idle: list[Callable[[], None]] = []  # wait until no request runs
        self.streaming = 0

    # -- from the event loop -------------------------------------------------------------------------------------------

    def call(self, function: Callable, *args, when_idle: bool = False) -> asyncio.Future:
        """Run ``function(*args)`` on the engine's thread between two tokens; with ``when_idle`` once no request runs
        (new ones wait meanwhile), or at once while paused. The future holds its result or exception."""
        future = self.loop.create_future()

        def work() -> None:
            try:
                result = function(*args)
            except Exception as error:
                self._to_loop(_reject, future, error)
            else:
                self._to_loop(_resolve, future, result)

        self.calls.put((lambda: self.when_idle.append(work)) if when_idle else work)
        return future

    def submit(self, requests: list[Request]) -> list[asyncio.Future]:
        """Start requests. Each future resolves to its request once that is finished or aborted."""
        for request in requests:
            request.waiter = self.loop.create_future()

        def work() -> None:
            for request in requests:
                self.engine.submit(request)

        self.calls.put(work)
        return [request.waiter for request in requests]

    def stream(self, request: Request) -> asyncio.Queue:
        """Start one request. The queue gets a (token count, finished) pair for each token."""
        request.stream, request.waiter = True, asyncio.Queue()

        def work() -> None:
            self.streaming += 1
            self.engine.submit(request)

        self.calls.put(work)
        return request.waiter

    def drop(self, requests: list[Request]) -> None:
        """End requests whose client is gone, and free their rows."""
        gone = {id(r) for r in requests}
        self.calls.put(lambda: self.engine.abort(lambda r: id(r) in gone, held=True))

    def stop(self) -> None:
        self.calls.put(None)

    # -- on the engine's thread ----------------------------------------------------------------------------------------

    def run(self) -> None:
        try:
            self._run()
        except Exception:
            log.exception("the engine's thread broke")
            self._to_loop(self.on_failure)

    def _run(self) -> None:
        engine = self.engine
        while True:
            wait = not (engine.has_work or self.when_idle)
            try:
                while True:
                    work = self.calls.get(block=wait)
                    if work is None:
                        return
                    work()
                    wait = False
            except Empty:
                pass
            if self.when_idle and (engine.paused or not engine.running):
                for work in self.when_idle:
                    work()
                self.when_idle.clear()
            engine.admitting = not self.when_idle
            if engine.has_work:
                try:
                    engine.step()
                except Exception as error:
                    log.exception("a decoding step failed; its requests end with status 500")
                    engine.fail(error)
            if self.streaming:
                live = [(r, len(r.output_ids)) for r in engine.running if r.stream]
                if live:
                    self._to_loop(_progress, live)
            if done := engine.take_done():
                self.streaming -= sum(r.stream for r in done)
                self._to_loop(_deliver, done)

    def _to_loop(self, function: Callable, *args) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: the server is going down
            self.loop.call_soon_threadsafe(function, *args)


def _resolve(future: asyncio.Future, result: object) -> None:
    if not future.done():
        future.set_result(result)


def _reject(future: asyncio.Future, error: Exception) -> None:
    if not future.done():
        future.set_exception(error)


def _progress(live: list[tuple[Request, int]]) -> None:
    for request, count in live:
        request.waiter.put_nowait((count, False))


def _deliver(done: list[Request]) -> None:
    for request in done:
        if request.stream:
            request.waiter.put_nowait((len(request.output_ids), True))
        elif request.waiter is not None and not request.waiter.done():
            request.waiter.set_result(request)
