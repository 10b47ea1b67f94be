"""AReaL's single controller, seen from the trainer: its controllers, with the hooks and repairs of our engines.

With `scheduler.type=local|ray|slurm` the trainer is one process without a model; AReaL's scheduler starts workers, and
the trainer calls the engines in them: `PackedActor` (training/actor.py) and our clients of rollout servers
(training/rollouts.py). In its worker each engine does the same as in SPMD mode; this file holds the rest.

    ./run train scheduler.type=local
"""

import os
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

from areal.api import LocalInfServerInfo
from areal.api.cli_args import InferenceEngineConfig, PPOConfig, SchedulingStrategy, SGLangConfig, vLLMConfig
from areal.infra import RolloutController, SlurmScheduler
from areal.infra.utils import slurm
from areal.infra.utils.concurrent import run_async_task
from areal.infra.utils.launcher import JobState
from areal.trainer.ppo.actor import PPOActorController
from typing_extensions import override

from areal_gsm8k.children import last_words
from areal_gsm8k.runs.records import give_up
from areal_gsm8k.training.rollouts import NEVER_STALE, RunsAhead, count_rejected, engine_class

QUEUE_SECONDS = 7 * 24 * 3600.0  # longest wait for workers' jobs to start
SLURM_STATES = {  # states that AReaL does not know (a KeyError), or takes for success (it would wait for dead workers)
    "CONFIGURING": JobState.PENDING,
    "SUSPENDED": JobState.RUNNING,
    "NODE_FAIL": JobState.FAILED,
    "BOOT_FAIL": JobState.FAILED,
    "PREEMPTED": JobState.FAILED,
    "DEADLINE": JobState.FAILED,
    "TIMEOUT": JobState.FAILED,
}


class ActorController(PPOActorController):
    """Calls `PackedActor` in its workers; has the actor's hooks, `shuffle_rewards` and `reduce_loss`."""

    on_advantages: Callable[[], None]
    on_update: Callable[[list[dict[str, Any]]], None]
    microbatch = (0, 0)  # only the workers know

    @override
    def compute_advantages(self, *args, **kwargs) -> list[dict[str, Any]]:
        groups = super().compute_advantages(*args, **kwargs)
        self.on_advantages()
        return groups

    @override
    def ppo_update(self, *args, **kwargs) -> None:
        super().ppo_update(*args, **kwargs)
        rows = run_async_task(self._call_workers, "take_rows", [], {})
        self.on_update([row for part in rows if part for row in part])

    def shuffle_rewards(self, seed: int) -> None:
        self._custom_function_call("shuffle_rewards", seed)

    def reduce_loss(self, reduction: str) -> None:
        self._custom_function_call("reduce_loss", reduction)


class RolloutsController(RunsAhead, RolloutController):
    """Calls our clients of rollout servers in their workers; runs ahead as they do, and gives up as they do.

    When a worker fails to make a group, for whatever reason, even when the worker is dead, AReaL's controller takes the
    group for a rejected one and asks for ever. `max_lost` lost groups in a row end the run; None is no bound.
    """

    max_lost: int | None = None
    records: Path  # the run's folder of sample records
    _lost = 0

    @property
    def executor(self):
        return self

    @override
    def _create_submit_callback(self, pending_task):
        submit = super()._create_submit_callback(pending_task)

        async def counted():
            result = await submit()
            self._lost = self._lost + 1 if result is None else 0
            if self._lost == self.max_lost:
                give_up(
                    self.records,
                    f"{self._lost} prompts in a row brought no complete group (max_failures). Their errors are in "
                    "samples/rejected.jsonl, those of the workers in logs/trainer_0.log",
                )
            return result

        return counted


def slurm_scheduler(config: PPOConfig) -> SlurmScheduler:
    """AReaL's Slurm scheduler, with the container, the mounts and srun's options that `actor.scheduling_spec` names.

    AReaL's trainer leaves these keys unread: every worker would run under Singularity, with only /storage mounted. And
    AReaL's scheduler gives workers 300 s from sbatch to answer, the time in the queue included.
    """
    slurm.STATUS_MAPPING.update(SLURM_STATES)
    spec = config.actor.scheduling_spec[0]
    return SlurmScheduler(
        startup_timeout=QUEUE_SECONDS,
        exp_config=config,
        container_type=spec.container_type,
        container_mounts=spec.mount,
        srun_additional_args=spec.srun_additional_args,
    )


def connect(trainer, config: InferenceEngineConfig, is_eval: bool) -> RolloutsController:
    """Workers connected to rollout servers: those of AREAL_LLM_SERVER_ADDRS, else ones that AReaL starts.

    AReaL's `_init_rollout` knows the second way only, and AReaL's own engines only. Evaluation clients live in the
    rollout workers and use their servers.
    """
    config = deepcopy(config)
    servers: dict[str, Any]
    if is_eval:
        config.max_head_offpolicyness = NEVER_STALE
        config.scheduling_strategy = SchedulingStrategy(type="colocation", target="rollout", fork=False)
        role, servers = "eval-rollout", {"server_infos": trainer.rollout.server_infos}
    elif addresses := os.environ.get("AREAL_LLM_SERVER_ADDRS"):
        role, servers = "rollout", {"server_infos": [_server(address) for address in addresses.split(",")]}
    else:
        role, servers = "rollout", {"server_args": _server_arguments(trainer)}
    backend = trainer.rollout_alloc.backend
    controller = RolloutsController(engine_class(backend), config=config, scheduler=trainer.scheduler)
    controller.records = trainer.run.records
    controller.max_empty_batches = trainer.config.max_empty_batches
    if is_eval or not trainer.config.dynamic_bs:  # a dynamic batch ends with its rejected groups, counted there
        controller.max_lost = trainer.config.max_failures
    try:
        controller.initialize(role=role, **servers)
    except Exception as failure:
        log = Path(getattr(trainer.scheduler, "log_dir", "")) / f"{role}.log"
        if not log.is_file():
            raise
        raise RuntimeError(f"The rollout workers did not start. {last_words(log)}") from failure
    if trainer.config.dynamic_bs and (manager := controller.staleness_manager):
        count_rejected(manager)
    return controller


def _server(address: str) -> LocalInfServerInfo:
    host, port = address.rsplit(":", 1)
    return LocalInfServerInfo(host=host, port=int(port), process=None)


def _server_arguments(trainer) -> dict[str, Any]:
    sizes = trainer.rollout_alloc.parallel
    if trainer.rollout_alloc.backend == "sglang":
        return SGLangConfig.build_args(sglang_config=trainer.config.sglang, tp_size=sizes.tp_size, base_gpu_id=0)
    return vLLMConfig.build_args(vllm_config=trainer.config.vllm, tp_size=sizes.tp_size, pp_size=sizes.pp_size)
