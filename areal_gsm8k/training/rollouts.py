"""AReaL's client of rollout servers (areal/infra/remote_inf_engine.py), with seven repairs.

1. The client connects to servers that already run (AReaL's `_init_rollout` wants sglang installed even then).
2. Rollouts really run ahead. AReaL submits new prompts only while it waits for a batch, so when a batch takes less than
   its one-second poll nothing is generated during the update; after each batch we submit up to the staleness bound.
3. A batch in which every group was rejected (`dynamic_bs=true`) is collected again, a bounded number of times; the
   trainer cannot redistribute an empty one.
4. Runs repeat: batches come in data order instead of AReaL's shuffle by a global generator, and every SGLang request
   carries the seed its workflow gave it (the embedded server draws by nothing else; SGLang itself heeds it only with
   --enable-deterministic-inference).
5. Rejected groups count towards the staleness bound (`count_rejected`).
6. A server that ends while a worker of the single controller starts it is noticed at once, not after `setup_timeout`.
7. Tokens carry the version of the weights that made them (weight_versions.py).
"""

import subprocess
from copy import deepcopy
from typing import Any

from areal.api import LocalInfServerInfo, WeightUpdateMeta
from areal.api.cli_args import InferenceEngineConfig, PerfTracerConfig
from areal.infra.staleness_manager import StalenessManager
from areal.infra.workflow_executor import WorkflowExecutor
from areal.utils import perf_tracer, stats_tracker
from typing_extensions import override

from areal_gsm8k.training.patient_client import PatientClient
from areal_gsm8k.training.run_config import RunConfig
from areal_gsm8k.training.weight_versions import SGLangAnswers, VLLMAnswers

# AReaL's task runner sleeps 0.5 s whenever it finds itself paused, longer than our whole pause, and looks for new
# prompts every 0.05 s while others are under way, half the time in which the tiny recipe answers a whole batch.
POLL_SECONDS = 0.002
NEVER_STALE = int(1e12)


def _never() -> bool:
    """What AReaL's `agenerate` hears when it asks whether rollouts are paused.

    A completion that a weight update cut short would sleep 0.5 s, three steps of the tiny recipe, and be too old for
    its batch and the next. It asks on at once, and its server holds the request while generation is paused, as SGLang,
    vLLM and the embedded server do.
    """
    return False


class NoSignal(RuntimeError):
    """Batch after batch, every group was rejected; the message gives the likely reasons."""


class ServerEnded(RuntimeError):
    """A rollout server that a worker of AReaL's single controller starts has ended before it answered."""


class RunsAhead:
    """Mixin over AReaL's client or its controller: `prepare_batch` runs ahead, no batch is empty."""

    config: InferenceEngineConfig
    workflow_executor: WorkflowExecutor
    max_empty_batches = 0

    def prepare_batch(self, dataloader, *args, **kwargs) -> list[dict]:
        areal: Any = super()
        for _ in range(self.max_empty_batches + 1):
            groups = areal.prepare_batch(dataloader, *args, **kwargs)
            if not groups:
                self._free_places()
            self._submit_ahead(dataloader.batch_size)
            if groups:
                return groups
        raise NoSignal(
            f"{self.max_empty_batches + 1} batches in a row held no group worth training on. Either every sample is "
            "wrong (too hard, or the answer format is not followed: see samples/rejected.jsonl) or every one is right "
            "(nothing left to learn). Keep such groups with drop_groups_without_signal=false, or raise "
            "gconfig.n_samples or max_empty_batches."
        )

    @property
    def executor(self):
        """AReaL's object with the queue of prompts (`dispatcher`) and their source (`data_generator`)."""
        return self.workflow_executor

    def _free_places(self) -> None:
        """After an empty batch, which no step consumes: let as many prompts go again, and wake AReaL's thread."""
        manager = self.executor.staleness_manager
        with manager.lock:
            manager.rollout_stat.accepted -= manager.consumer_batch_size
        self.executor.dispatcher.resume()

    def _submit_ahead(self, batch_size: int) -> None:
        """Submit prompts until `max_head_offpolicyness` batches are under way, to be generated during the update."""
        dispatcher = self.executor.dispatcher
        ahead = self.config.max_head_offpolicyness * batch_size
        for _ in range(ahead - len(dispatcher._active_task_ids)):  # noqa: SLF001 - AReaL has no public form (areal_contract.py)
            dispatcher.submit_task_input(next(self.executor.data_generator))


def count_rejected(manager: StalenessManager) -> None:
    """Let a dynamic batch's rejected groups count like its accepted ones, for a batch ends with both together.

    AReaL lets new prompts go while accepted and running groups are fewer than the batches of the next
    `max_head_offpolicyness` + 1 steps hold, and forgets rejected ones; so they would be replaced at once, further ahead
    with every step: samples two versions old in the sixth step of a synchronous run, and rollouts beside the update.
    """
    manager.on_rollout_rejected = manager.on_rollout_accepted


class Rollouts(RunsAhead, PatientClient):
    """A client of one kind of server: a pause of milliseconds stays that short, and batches come in data order."""

    backend_class: type
    starting: subprocess.Popen | None = None  # the server that AReaL's `launch_server` waits for

    def __init__(self, config: InferenceEngineConfig, patience: float = 0):
        super().__init__(config, self.backend_class(f"{config.experiment_name}/{config.trial_name}"), patience)

    @override
    def initialize(self, *args, **kwargs) -> None:
        super().initialize(*args, **kwargs)
        runner = self.workflow_executor.runner
        runner.poll_sleep_time = runner.poll_wait_time = POLL_SECONDS
        self.workflow_executor.is_paused = _never

    @override
    def launch_server(self, server_args: dict[str, Any]) -> LocalInfServerInfo:
        """As AReaL's, in a worker of the single controller. Raises ServerEnded."""
        launch = self.backend.launch_server

        def launch_and_note(server_args: dict[str, Any]) -> subprocess.Popen:
            self.starting = launch(server_args)
            return self.starting

        self.backend.launch_server = launch_and_note
        try:
            return super().launch_server(server_args)
        finally:
            self.backend.launch_server, self.starting = launch, None

    @override
    def check_health(self, base_url: str) -> bool:
        """Raises ServerEnded when the server that is waited for has ended."""
        if self.starting is not None and (code := self.starting.poll()) is not None:
            raise ServerEnded(f"the rollout server ended with code {code} while it started")
        return super().check_health(base_url)

    def load(self, model: str) -> None:
        """Every server serves the model in this folder, or of this hub name, once this returns."""
        meta = WeightUpdateMeta("disk", model, version=self.get_version())
        for request in self.backend.build_disk_weight_update_requests(meta).requests:
            self._run_request_on_all_servers(request)

    @override
    def prepare_batch(self, *args, **kwargs) -> list[dict]:
        return sorted(super().prepare_batch(*args, **kwargs), key=lambda group: group["sample_id"][0].item())

    # AReaL's loop calls these methods of a client, and only AReaL's wrappers (areal/engine/sglang_remote.py) have them.

    @override
    def export_stats(self) -> dict[str, float]:
        return stats_tracker.export_all(reduce_group=None)

    @override
    def save_perf_tracer(self, step: int | None = None, force: bool = False) -> None:
        perf_tracer.save(step=step, force=force)

    @override
    def config_perf_tracer(self, config: PerfTracerConfig, rank: int, role: str) -> None:
        if not perf_tracer.is_configured():
            perf_tracer.configure(config, rank=rank, role=role)


class SeededRequests(SGLangAnswers):
    @override
    def build_generation_request(self, req, with_lora, version):
        request = super().build_generation_request(req, with_lora, version)
        if "sampling_seed" in req.metadata:
            request.payload["sampling_params"]["sampling_seed"] = req.metadata["sampling_seed"]
        return request


class SGLangRollouts(Rollouts):
    backend_class = SeededRequests


class VLLMRollouts(Rollouts):
    backend_class = VLLMAnswers


def engine_class(backend: str) -> type[Rollouts]:
    return {"sglang": SGLangRollouts, "vllm": VLLMRollouts}[backend]


def connect(backend: str, config: InferenceEngineConfig, ranks: int, is_eval: bool, run: RunConfig) -> Rollouts:
    """A client of the servers named in AREAL_LLM_SERVER_ADDRS or registered by AReaL's launcher.

    `ranks`: data-parallel trainers. Only a dead embedded server is restarted, so the client waits for no other.
    """
    config = deepcopy(config)
    if is_eval:
        config.max_head_offpolicyness = NEVER_STALE
    patience = config.setup_timeout if run.allocation_mode.startswith("embedded") else 0
    engine = engine_class(backend)(config, patience)
    engine.max_empty_batches = run.max_empty_batches
    engine.initialize(train_data_parallel_size=ranks)
    if run.dynamic_bs:
        count_rejected(engine.executor.staleness_manager)
    return engine
