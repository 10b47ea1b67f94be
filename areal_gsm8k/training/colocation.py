"""One GPU for server and trainer in turns: whoever works has all of it, and the other has given its memory back.

    ./run train rollout.scheduling_strategy.type=colocation rollout.scheduling_strategy.target=actor \\
        enable_offload=true sglang.enable_memory_saver=true sglang.mem_fraction_static=0.8

This is AReaL's colocation: its loop (areal/trainer/rl_trainer.py) sends the servers off the GPU after each batch and
the actor after each update. Three repairs, without which it frees nothing of SGLang's memory or ends in an error:

1. SGLang keeps no copy of weights whose memory it releases, and AReaL hands it new ones while it is released. Here an
   update only saves them (`load_later` of training/actor.py); a server loads the newest whenever it is back.
2. The server starts first, with its share of an empty GPU. It gives that back before the trainer loads its model.
3. Evaluations and the preflight take the GPU for their own time, and only when there is one to make.
"""

import json
import os
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

SETTLE_SECONDS = 0.5  # SGLang ends when it is to release memory while a request is still leaving its scheduler
RELEASE_SECONDS = 120


class TakesTurns:
    """Mixin over PPOTrainer; without colocation it changes nothing."""

    _servers_hold_gpu = False

    def _release_servers(self) -> None:
        """Before the trainer is made: every server gives its memory back."""
        for address in filter(None, os.environ.get("AREAL_LLM_SERVER_ADDRS", "").split(",")):
            request = urllib.request.Request(
                f"http://{address}/release_memory_occupation",
                data=json.dumps({}).encode(),
                headers={"Content-Type": "application/json"},
            )
            urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=RELEASE_SECONDS).close()

    @contextmanager
    def _servers_at_work(self, client) -> Iterator[None]:
        """The GPU is the servers' within, the trainer's again afterwards; `client` may send them requests."""
        if not self._should_offload_rollout:
            yield
            return
        self._to_servers(client)
        try:
            yield
        finally:
            self._to_trainer(client)

    def _to_servers(self, client) -> None:
        client.onload()
        client.load(self.actor.served or self.config.actor.path)  # its own are gone
        client.continue_generation()
        client.resume()
        self._servers_hold_gpu = True

    def _to_trainer(self, client) -> None:
        client.pause()
        client.pause_generation()
        time.sleep(SETTLE_SECONDS)
        client.offload()
        self._servers_hold_gpu = False

    # What AReaL's loop calls

    def _onload_rollout(self, is_eval: bool = False) -> None:
        if not is_eval:  # evaluations take their turn themselves
            self._to_servers(self.rollout)

    def _offload_rollout(self, is_eval: bool = False) -> None:
        if self._servers_hold_gpu:  # not at the start, nor after an evaluation
            self._to_trainer(self.rollout)

    def _evaluate_fn(self, *args, **kwargs):
        with self._servers_at_work(self.eval_rollout):
            return super()._evaluate_fn(*args, **kwargs)
