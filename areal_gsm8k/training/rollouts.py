"""AReaL's clients of rollout servers, with four repairs; everything else is AReaL's remote engines.

1. They connect to servers that already run (AReaL's `_init_rollout` wants sglang installed even then).
2. Rollouts really run ahead. AReaL submits new prompts only while it waits for a batch, so when a batch takes less than
   its one-second poll nothing is generated during the update; after each batch we submit up to the staleness bound.
3. A batch in which every group was rejected (`dynamic_bs=true`) is collected again, a bounded number of times; the
   trainer cannot redistribute an empty one.
4. A run repeats: batches come in data order instead of AReaL's shuffle by a global generator, and every SGLang request
   carries the seed its workflow gave it (the embedded server draws by nothing else; SGLang itself heeds it only with
   --enable-deterministic-inference).
"""

from copy import deepcopy

from areal.api import WeightUpdateMeta
from areal.api.cli_args import InferenceEngineConfig
from areal.engine import RemoteSGLangEngine, RemotevLLMEngine
from areal.engine.sglang_remote import SGLangBackend

from areal_gsm8k.training.patient_client import PatientClient

POLL_SECONDS = 0.02  # AReaL's task runner sleeps 0.5 s whenever it finds itself paused, longer than our whole pause
NEVER_STALE = int(1e12)


class NoSignal(RuntimeError):
    """Batch after batch, every group was rejected; the message gives the likely reasons."""


class RunsAhead:
    """Mixin over AReaL's remote engines or their controller: `prepare_batch` runs ahead, no batch is empty."""

    max_empty_batches = 0

    def prepare_batch(self, dataloader, *args, **kwargs) -> list[dict]:
        for _ in range(self.max_empty_batches + 1):
            groups = super().prepare_batch(dataloader, *args, **kwargs)
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

    def _submit_ahead(self, batch_size: int) -> None:
        """Submit prompts until `max_head_offpolicyness` batches are under way, to be generated during the update."""
        dispatcher = self.executor.dispatcher
        ahead = self.config.max_head_offpolicyness * batch_size
        for _ in range(ahead - len(dispatcher._active_task_ids)):
            dispatcher.submit_task_input(next(self.executor.data_generator))


class LocalRollouts(RunsAhead):
    """Mixin over AReaL's remote engines: a pause of milliseconds stays one, and batches come in data order."""

    def initialize(self, *args, **kwargs) -> None:
        super().initialize(*args, **kwargs)
        self.workflow_executor.runner.poll_sleep_time = POLL_SECONDS

    def load(self, model: str) -> None:
        """Every server serves the model in this folder, or of this hub name, once this returns."""
        for request in self._engine.backend.build_disk_weight_update_requests(WeightUpdateMeta("disk", model)).requests:
            self._engine._run_request_on_all_servers(request)

    def prepare_batch(self, *args, **kwargs) -> list[dict]:
        return sorted(super().prepare_batch(*args, **kwargs), key=lambda group: group["sample_id"][0].item())


class SeededRequests(SGLangBackend):
    def build_generation_request(self, req, with_lora, version):
        request = super().build_generation_request(req, with_lora, version)
        if "sampling_seed" in req.metadata:
            request.payload["sampling_params"]["sampling_seed"] = req.metadata["sampling_seed"]
        return request


class SGLangRollouts(LocalRollouts, RemoteSGLangEngine):
    def __init__(self, config: InferenceEngineConfig):
        super().__init__(config)
        self._engine.backend = SeededRequests()


class VLLMRollouts(LocalRollouts, RemotevLLMEngine):
    pass


def engine_class(backend: str) -> type:
    return {"sglang": SGLangRollouts, "vllm": VLLMRollouts}[backend]


def connect(
    backend: str,
    config: InferenceEngineConfig,
    ranks: int,
    is_eval: bool,
    max_empty_batches: int = 0,
    patience: float = 0,
):
    """A client of the servers named in AREAL_LLM_SERVER_ADDRS or registered by AReaL's launcher.

    `patience`: seconds to wait for a dead server's restart; 0 where nobody restarts them.
    """
    config = deepcopy(config)
    if is_eval:
        config.max_head_offpolicyness = NEVER_STALE
    engine = engine_class(backend)(config)
    if patience:
        engine._engine = PatientClient(config, engine._engine.backend, patience)
    engine.max_empty_batches = max_empty_batches
    engine.initialize(train_data_parallel_size=ranks)
    return engine
