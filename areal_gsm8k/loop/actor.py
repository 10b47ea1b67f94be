"""AReaL's FSDP actor with four repairs and one hook; everything else is AReaL's `FSDPPPOActor`.

1. Packed sequences must not see one another. AReaL passes `attention_mask=dict(full_attention=None, ...)`, which under
   sdpa and eager attention lets every packed sequence attend to all before it (rollout/trainer logprob gaps of 0.5 and
   more at learning rate 0). With `attention_mask=None` transformers masks from position_ids.
2. Weights by disk in 0.06 s instead of 1.2 s: AReaL's server side polls for the saved folder once a second, so save
   first, announce it, and only then pause the server.
3. A batch in which every group was rejected is collected again, a bounded number of times, instead of crashing.
4. Rollouts really run ahead. AReaL submits new prompts only while it waits for a batch, so when a batch takes less than
   its one-second poll nothing is generated during the update; after each batch we submit up to the staleness bound.
Hook: `on_advantages` gets every batch once its advantages are known; the trainer joins sample records there.
"""

from collections.abc import Callable
from datetime import datetime
from typing import Any

import torch
import torch.distributed as dist
from areal.api import WeightUpdateMeta
from areal.api.cli_args import PPOActorConfig
from areal.engine import FSDPPPOActor
from areal.infra.platforms import current_platform
from areal.utils import name_resolve, names

MASKS_FROM_POSITIONS = ("sdpa", "eager")  # attention kernels that take a mask; flash attention takes cu_seqlens


class NoSignal(RuntimeError):
    """Batch after batch, every group was rejected; the message gives the likely reasons."""


class PackedActor(FSDPPPOActor):
    def __init__(self, config: PPOActorConfig):
        super().__init__(config)
        self.on_advantages: Callable[[list[dict[str, Any]]], None] = lambda groups: None
        self.max_empty_batches = 0
        self.prompts_per_rank = 0  # prompts of a batch on this rank
        self.shuffle_seed: int | None = None  # control run: permute rewards within the batch

    def _prepare_mb_list(self, input_: dict[str, Any]):
        mb_list = super()._prepare_mb_list(input_)
        if self.config.attn_impl in MASKS_FROM_POSITIONS and not self.enable_tree_training:
            for microbatch in [*mb_list.mbs, *mb_list.padded_mbs]:
                microbatch["attention_mask"] = None
        return mb_list

    def _update_weights_from_disk(self, meta: WeightUpdateMeta):
        self._save_model_to_hf(meta.path, self.tokenizer, self.processor)  # ends in a barrier
        if dist.get_rank() == 0:
            name = names.update_weights_from_disk(
                self.config.experiment_name, self.config.trial_name, self.get_version()
            )
            name_resolve.add(name, str(datetime.now().timestamp()), keepalive_ttl=120, replace=True)
            self.rollout_engine.pause_generation()
            try:
                self.rollout_engine.update_weights_from_disk(meta).result()
            finally:
                self.rollout_engine.continue_generation()
        current_platform.synchronize()
        dist.barrier(group=self.cpu_group)

    def prepare_batch(self, *args, **kwargs) -> list[dict[str, Any]]:
        for _ in range(self.max_empty_batches + 1):
            groups = super().prepare_batch(*args, **kwargs)
            self._run_ahead()
            if groups:
                return groups
        raise NoSignal(
            f"{self.max_empty_batches + 1} batches in a row held no group worth training on. Either every sample is "
            "wrong (too hard, or the answer format is not followed: see samples/rejected.jsonl) or every one is right "
            "(nothing left to learn). Keep such groups with drop_groups_without_signal=false, or raise "
            "gconfig.n_samples or max_empty_batches."
        )

    def _run_ahead(self) -> None:
        """Submit prompts until `max_head_offpolicyness` batches are under way, to be generated during the update."""
        if not self.is_data_parallel_head():
            return
        executor = self.rollout_engine.workflow_executor
        ahead = executor.max_staleness * self.prompts_per_rank
        for _ in range(ahead - len(executor.dispatcher._active_task_ids)):
            executor.dispatcher.submit_task_input(next(executor.data_generator))

    @torch.no_grad()
    def compute_advantages(self, data: list[dict[str, Any]], *args, **kwargs) -> list[dict[str, Any]]:
        if self.shuffle_seed is not None:
            data = self._shuffled(data)
        groups = super().compute_advantages(data, *args, **kwargs)
        self.on_advantages(groups)
        for group in groups:
            del group["sample_id"]  # joined by now; the update packs every tensor it is given
        return groups

    def _shuffled(self, groups: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The same groups with their rewards permuted over the whole batch of this rank."""
        rewards_B = torch.cat([group["rewards"] for group in groups])
        generator = torch.Generator().manual_seed(self.shuffle_seed + self.get_version())
        shuffled_B = rewards_B[torch.randperm(len(rewards_B), generator=generator)]
        sizes = [len(group["rewards"]) for group in groups]
        return [group | {"rewards": part} for group, part in zip(groups, shuffled_B.split(sizes), strict=True)]
