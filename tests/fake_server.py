"""A rollout server that answers what a test tells it to, at once or as a stream of events."""

import json
import threading
from collections.abc import Callable
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

MODELS = {"data": [{"id": "the-model"}]}


@contextmanager
def serving(answers, sglang=False):
    """POSTs get `answers` in turn, the last for ever: (status, JSON). Yields the URL, and (path, body) of each."""
    bodies, left = [], list(answers)

    def post(handler, body):
        bodies.append((handler.path, body))
        reply(handler, *(left.pop(0) if len(left) > 1 else left[0]))

    with answering(post, sglang) as url:
        yield url, bodies


@contextmanager
def streaming(events, status=200):
    """POSTs get these events. Yields the URL, the bodies, and an event that is set when a client goes away."""
    bodies, left = [], threading.Event()

    def post(handler, body):
        bodies.append(body)
        handler.send_response(status)
        handler.end_headers()
        try:
            for event in events:
                data = event if isinstance(event, str) else json.dumps(event)
                handler.wfile.write(f": a comment\ndata: {data}\n\n".encode())
        except ConnectionError:
            left.set()

    with answering(post) as url:
        yield url, bodies, left


@contextmanager
def answering(post: Callable, sglang=False):
    """The URL of a server that names its model and leaves what is posted to `post(handler, body)`."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            known = ["/v1/models"] + ["/get_model_info"] * sglang
            reply(self, 200 if self.path in known else 404, MODELS)

        def do_POST(self):
            post(self, json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def reply(handler: BaseHTTPRequestHandler, status: int, answer) -> None:
    content = json.dumps(answer).encode()
    handler.send_response(status)
    handler.send_header("Content-Length", str(len(content)))
    handler.end_headers()
    handler.wfile.write(content)
