"""One GPU for server and trainer in turns: whoever works has the whole GPU, and the other has released its memory.

    ./run train rollout.scheduling_strategy.type=colocation rollout.scheduling_strategy.target=actor \\
        enable_offload=true sglang.enable_memory_saver=true sglang.mem_fraction_static=0.8

This is AReaL's colocation: its loop (areal/trainer/rl_trainer.py) sends the servers off the GPU after each batch and
the actor after each update. Without three repairs colocation frees nothing of SGLang's memory or ends in an error:

1. SGLang keeps no copy of weights whose memory it releases, and AReaL sends new weights while the memory is released.
   Here an update only saves them (`load_later` of training/actor.py); a server loads the newest when its turn comes.
2. The server starts first, with its share of an empty GPU. The server releases that before the trainer loads its model.
3. Evaluations and the preflight take the GPU for their own time, and only when one is due.
"""

import json
import os
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

SETTLE_SECONDS = 0.5  # SGLang ends when it is to release memory while a request is still leaving its scheduler
RELEASE_SECONDS = 120


def release_servers() -> None:
    """Before the trainer is made: make every server release its memory."""
    for address in filter(None, os.environ.get("AREAL_LLM_SERVER_ADDRS", "").split(",")):
        request = urllib.request.Request(
            f"http://{address}/release_memory_occupation",
            data=json.dumps({}).encode(),
            headers={"Content-Type": "application/json"},
        )
        urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=RELEASE_SECONDS).close()


class Turns:
    """The turns on the GPU; the trainer has the first. `client`: of training/rollouts.py."""

    def __init__(self) -> None:
        self._servers_hold_gpu = False

    def to_servers(self, client, weights: str) -> None:
        """Give the servers the GPU, and the weights of this folder or hub name: their own are gone."""
        client.onload()
        client.load(weights)
        client.continue_generation()
        client.resume()
        self._servers_hold_gpu = True

    def to_trainer(self, client) -> None:
        """Give the trainer the GPU, unless the trainer has it already: at the start, and after an evaluation."""
        if not self._servers_hold_gpu:
            return
        client.pause()
        client.pause_generation()
        time.sleep(SETTLE_SECONDS)
        client.offload()
        self._servers_hold_gpu = False

    @contextmanager
    def servers_at_work(self, client, weights: str) -> Iterator[None]:
        """Within the block the servers have the GPU, and `client` may send requests; afterwards the trainer has it."""
        self.to_servers(client, weights)
        try:
            yield
        finally:
            self.to_trainer(client)
