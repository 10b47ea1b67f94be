"""Start the embedded rollout server: ``python -m areal_gsm8k.serve --model-path M --port 30000``.

Port 0 takes a free one; the port is in the log and, with --ready-file, in that file as soon as it is bound. A wrong
model path or an occupied port is one line on stderr and exit code 2, before torch is imported.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import logging
import os
import signal
import socket
import sys
import time

from areal_gsm8k.children import die_with_parent

log = logging.getLogger("areal_gsm8k.serve")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m areal_gsm8k.serve", description=(__doc__ or "").split("\n")[0])
    add = parser.add_argument
    add("--model-path", required=True, help="Hugging Face model folder, or a hub id")
    add("--host", default="127.0.0.1", help="address to listen on (default: loopback only)")
    add("--port", type=int, default=30000, help="0 takes a free port")
    add("--device", default="auto", help="auto, cpu or cuda")
    add("--dtype", default="auto", help="auto (the model's own on CUDA, float32 on CPU), float32, bfloat16, ...")
    add("--max-running-requests", type=int, default=256, help="rows decoded at once; more requests wait")
    add("--context-length", type=int, help="prompt and answer together, in tokens (default: the model's)")
    add("--seed", type=int, default=0, help="of requests that carry no sampling_seed")
    add("--threads", type=int, default=1, help="torch threads on CPU; one is fastest for tiny models")
    add("--ready-file", help="write {host, port, pid} here once the port is bound")
    return parser.parse_args()


def bind(host: str, port: int) -> socket.socket:
    """A bound socket, not yet listening: clients are refused until the model is loaded. Raises OSError.

    SO_REUSEADDR lets the next server have the port while connections of a dead one linger, if both set it. For port 0
    the socket is bound before the option is set, else the kernel might choose a port that another server has bound and
    does not listen on yet.
    """
    family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
    bound = socket.socket(family, socket.SOCK_STREAM)
    if not port:
        bound.bind((host, 0))
    if os.name == "posix":
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if port:
        bound.bind((host, port))
    return bound


def occupied(host: str, port: int) -> bool:
    """Whether somebody listens there already (a bind alone would not always tell)."""
    try:
        with socket.create_connection((host, port), timeout=1):
            return True
    except OSError:
        return False


async def serve(args: argparse.Namespace, engine, listening: socket.socket) -> int:
    """Serve until SIGTERM, Ctrl-C or the engine's end. Returns the exit code."""
    from aiohttp import web

    from .api import Api
    from .worker import EngineThread

    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    if os.name == "posix":
        loop.add_signal_handler(signal.SIGTERM, stop.set)
        loop.add_signal_handler(signal.SIGINT, stop.set)
    worker = EngineThread(engine, loop, on_failure=stop.set)
    worker.start()
    runner = web.AppRunner(Api(worker).app(), access_log=None, handler_cancellation=True, shutdown_timeout=1.0)
    await runner.setup()
    await web.SockSite(runner, listening, backlog=4096).start()
    host, port = listening.getsockname()[:2]
    log.info("serving %s on http://%s:%d (%s)", args.model_path, host, port, engine.model.device)
    await stop.wait()
    broken = not worker.is_alive()
    log.info("stopping")
    worker.stop()
    await runner.cleanup()
    worker.join(timeout=5)  # a step under way must not meet a dying interpreter
    return int(broken)


def main() -> int:
    started = time.monotonic()
    args = arguments()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    die_with_parent()

    def refuse(message: str) -> int:
        print(f"error: {message}", file=sys.stderr, flush=True)
        return 2

    local = os.path.isdir(args.model_path)
    if local and not os.path.isfile(os.path.join(args.model_path, "config.json")):
        return refuse(f"model path {args.model_path} has no config.json: it is not a Hugging Face model folder")
    if not local and (args.model_path.count("/") != 1 or args.model_path.startswith((".", "/", "~"))):
        return refuse(f"model path {args.model_path} does not exist")
    try:
        if args.port and occupied(args.host, args.port):
            return refuse(f"port {args.port} on {args.host} is in use: choose another, or 0 for a free one")
        listening = bind(args.host, args.port)
    except OSError as error:
        return refuse(f"cannot listen on {args.host}:{args.port}: {error}")
    if args.ready_file:
        host, port = listening.getsockname()[:2]
        with open(args.ready_file + ".part", "w", encoding="utf-8") as file:
            json.dump({"host": host, "port": port, "pid": os.getpid()}, file)
        os.replace(args.ready_file + ".part", args.ready_file)

    import torch
    import transformers

    torch.set_num_threads(args.threads)
    transformers.utils.logging.disable_progress_bar()
    from .engine import Engine
    from .model import ModelError

    try:
        engine = Engine.from_pretrained(
            args.model_path, args.device, args.dtype, args.max_running_requests, args.context_length, args.seed
        )
    except ModelError as error:
        return refuse(str(error))
    gc.freeze()  # imported modules never die; collecting them again at the exit took two seconds
    log.info("model loaded after %.1f s", time.monotonic() - started)
    return asyncio.run(serve(args, engine, listening))


if __name__ == "__main__":
    sys.exit(main())
