"""How far the phase under way has come, every two seconds, in the run's status file: a step may take minutes.

The live view shows it (watch/live.py): samples of a batch, rows of an evaluation, microbatches of an update, and how
fast the rollout servers generate. A status that changes is also a sign of life for `hang_seconds`.

    pulse = Pulse(run, progress)            # progress("rollout") -> {"done": 5, "of": 16, "tokens_per_second": 62}
    pulse.enter("rollout", step=3)
"""

import json
import threading
import urllib.request
from collections.abc import Callable, Iterable
from typing import Any

from areal_gsm8k.runs.run import Run

BEAT_SECONDS = 2.0
ANSWER_SECONDS = 1.0  # a server too busy to answer within it is left out
_no_proxy = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class Pulse:
    """Writes phases at once, and what `progress(phase)` finds in between: {} where there is nothing to count."""

    def __init__(self, run: Run, progress: Callable[[str], dict[str, Any]]):
        self.run, self.progress = run, progress
        self._lock = threading.Lock()
        self._phase: str = ""
        self._details: dict[str, Any] = {}
        self._found: dict[str, Any] = {}

    def start(self) -> None:
        threading.Thread(target=self._go, name="pulse", daemon=True).start()

    def enter(self, phase: str, **details) -> None:
        with self._lock:
            self._phase, self._details, self._found = phase, details, {}
            self.run.set_status(phase, **details)

    def beat(self) -> None:
        """Look, and write what changed, unless the phase ended meanwhile."""
        phase, details = self._phase, self._details
        found = self.progress(phase)
        with self._lock:
            if found and found != self._found and details is self._details:
                self._found = found
                self.run.set_status(phase, **details, **found)

    def _go(self) -> None:
        pause = threading.Event()
        while not pause.wait(BEAT_SECONDS):
            self.beat()


def progress(trainer, phase: str) -> dict[str, Any]:
    """How far this phase of a GSM8KTrainer has come: `done`, `of` and, while servers work, `tokens_per_second`."""
    config = trainer.config
    if phase == "training":
        done, of = trainer.actor.microbatch
        return {"done": done, "of": of} if of > 1 else {}
    samples, evaluations = config.gconfig.n_samples, config.eval_gconfig.n_samples
    wanted = {
        "rollout": config.train_dataset.batch_size * samples,
        "evaluating": trainer.dev_rows * evaluations,
        "preflight": min(config.preflight_prompts, len(trainer.train_dataloader.dataset)) * samples,
    }
    if phase not in wanted:
        return {}
    evaluation = phase != "rollout"
    ready = trainer.stats_logger.reader.count(evaluation, rejected=config.dynamic_bs and not evaluation)
    found = {"done": min(ready, wanted[phase]), "of": wanted[phase]}  # rollouts ahead may have more ready
    rate = tokens_per_second(_addresses(trainer))
    return found if rate is None else found | {"tokens_per_second": rate}


def _addresses(trainer) -> list[str]:
    if trainer.scheduler:
        return [f"{server.host}:{server.port}" for server in trainer.rollout.server_infos]
    return trainer.rollout.addresses


def tokens_per_second(addresses: Iterable[str]) -> int | None:
    """What SGLang and embedded servers at these host:port generate now, together; None when none says so (vLLM)."""
    rates = []
    for address in addresses:
        try:
            with _no_proxy.open(f"http://{address}/get_server_info", timeout=ANSWER_SECONDS) as answer:
                rates += [state["last_gen_throughput"] for state in json.load(answer)["internal_states"]]
        except (OSError, ValueError, KeyError):
            continue
    return round(sum(rates)) if rates else None
