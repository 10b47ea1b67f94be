"""Tokens a second, as /get_server_info reports them: `last_gen_throughput` of SGLang."""

import time

WINDOW_SECONDS = 2.0


class Throughput:
    """The rate over the last whole window; 0 when nothing was generated for two windows."""

    def __init__(self) -> None:
        self._tokens, self._since, self._rate = 0, time.monotonic(), 0.0

    def add(self, tokens: int) -> None:
        now = time.monotonic()
        if now - self._since > 2 * WINDOW_SECONDS:  # idle before
            self._tokens, self._since, self._rate = 0, now, 0.0
        self._tokens += tokens
        if now - self._since >= WINDOW_SECONDS:
            self._rate = self._tokens / (now - self._since)
            self._tokens, self._since = 0, now

    def rate(self) -> float:
        return self._rate if time.monotonic() - self._since <= 2 * WINDOW_SECONDS else 0.0
