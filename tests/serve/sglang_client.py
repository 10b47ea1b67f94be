"""A client of SGLang's HTTP interface with the standard library only."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor


class Client:
    """SGLang's HTTP interface with the standard library."""

    def __init__(self, url: str):
        self.url = url
        self.opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        self.pool = ThreadPoolExecutor(80)

    def call(self, path: str, body: object = None, method: str | None = None, raw: bytes | None = None):
        """(status, JSON or text). A body means POST."""
        data = raw if raw is not None else None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(self.url + path, data, headers, method=method)
        try:
            with self.opener.open(request, timeout=120) as response:
                status, content = response.status, response.read().decode()
        except urllib.error.HTTPError as error:
            status, content = error.code, error.read().decode()
        try:
            return status, json.loads(content)
        except ValueError:
            return status, content

    def generate(self, ids, **options):
        """The answer to a prompt; sampling parameters are told apart from the payload's own keys."""
        payload = {"input_ids": ids, "return_logprob": True}
        for key in ("text", "rid", "logprob_start_len", "top_logprobs_num", "return_logprob"):
            if key in options:
                payload[key] = options.pop(key)
        if "text" in payload:
            del payload["input_ids"]
        status, answer = self.call("/generate", payload | {"sampling_params": options})
        assert status == 200, answer
        return answer

    def update_weights(self, path: str, **options):
        """(status, answer) of a weight update, sent once nothing runs: flush_cache succeeds then.

        Real SGLang's scheduler runs a step ahead, and 0.5.10 dies of an update that comes before it has noticed that
        the last request is done.
        """
        deadline = time.monotonic() + 60
        while self.call("/flush_cache", {})[0] != 200:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        return self.call("/update_weights_from_disk", {"model_path": path} | options)

    def later(self, ids, **options):
        return self.pool.submit(self.generate, ids, **options)


def output_ids(answer: dict) -> list[int]:
    return [token for _, token, _ in answer["meta_info"]["output_token_logprobs"]]


def output_logprobs(answer: dict) -> list[float]:
    return [logprob for logprob, _, _ in answer["meta_info"]["output_token_logprobs"]]
