"""AReaL's FSDP actor, with repairs and savings; everything else is AReaL's `FSDPPPOActor`.

1. Packed sequences do not see one another. AReaL passes `attention_mask=dict(full_attention=None, ...)`, which under
   sdpa and eager attention lets every packed sequence attend to all before it (rollout/trainer logprob gaps of 0.5 and
   more at learning rate 0). Models that take an attention function get packs in which a prompt stands once, attention
   by sequence, and logprobs without logits (packing.py, attention.py, logprob_head.py); the others
   `attention_mask=None`, from which transformers masks by position_ids.
2. No pass that need not be: pi_prox comes from the update itself when a batch gets one update; one rank gathers
   nothing, and reduces gradients once a step instead of after every microbatch.
3. Weights by disk in 0.02 s instead of 1.2 s: AReaL's server side polls for the saved folder once a second, so save
   first, announce it, and only then pause the server.
4. The loss as the algorithm's paper takes its mean: `loss_reduction`. AReaL knows the mean over tokens only.
5. LoRA: saved weights, for servers and as checkpoints, have the adapter merged in (training/lora.py).

Hooks: `on_advantages` is called when a batch is about to be trained on; `on_update` gets a row for every sample of the
batch (training/batch_rows.py) once it was; the trainer joins sample records there. `on_weights_saved` gets the folder
of new weights before a server loads them; see `_update_weights_from_disk`. No hook can reach a worker of AReaL's single
controller: there the controller fetches the rows (training/controller.py).
"""

import shutil
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from typing import Any, cast

import torch
import torch.distributed as dist
from areal.api import Scheduler, WeightUpdateMeta
from areal.api.cli_args import PPOActorConfig
from areal.engine.fsdp_engine import FSDPPPOActor
from areal.infra.platforms import current_platform
from areal.utils import name_resolve, names
from areal.utils.data import tensor_container_to
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from typing_extensions import override

from areal_gsm8k.training import attention, heap, lora, packing, weights
from areal_gsm8k.training.batch_rows import logprob_gaps, sample_rows
from areal_gsm8k.training.controller import ActorController
from areal_gsm8k.training.logprob_head import LogprobHead
from areal_gsm8k.training.ranks import Ranks

LARGE = 50_000_000  # parameters: smaller models free too little in a step to be worth giving back
MASKS_FROM_POSITIONS = ("sdpa", "eager")  # attention kernels that take a mask; flash attention takes cu_seqlens


class PackedActor(FSDPPPOActor):
    config: PPOActorConfig
    model: Any  # a transformers model, under PEFT and FSDP
    rollout_engine: Any  # training/rollouts.py
    gives_back = False  # whether a step's free memory goes back to the system
    load_later = False  # servers are off the GPU during updates (training/colocation.py): only save

    def __init__(self, config: PPOActorConfig):
        super().__init__(config)
        self.on_advantages: Callable[[], None] = lambda: None
        self.on_update: Callable[[list[dict[str, Any]]], None] = self.keep_rows
        self.rows: list[dict[str, Any]] = []
        self.on_weights_saved: Callable[[str], None] = lambda folder: None
        self.served: str | None = None  # the folder every server loaded last, or will
        self.shuffle_seed: int | None = None
        self.loss_reduction = "token_mean"
        self.head: LogprobHead | None = None  # with packs (training/packing.py)
        self.attended: list[packing.Rows] = []  # of the pack that went through the model last
        self._batch_rows: list[dict[str, Any]] = []  # of the batch that is being trained on, without its gaps
        self.gaps: dict[int, dict[str, Any]] = {}  # of its samples, by id
        self.microbatch = (0, 0)  # of the batch under way: how many are done, how many there are

    @override
    def _create_device_model(self):
        super()._create_device_model()
        config = self.model.config
        if not hasattr(config, "num_key_value_heads") and not hasattr(config, "text_config"):
            config.num_key_value_heads = config.num_attention_heads  # AReaL reads it; GPT-Neo has one a head
        self.gives_back = self.device.type == "cpu" and self.model.num_parameters() >= LARGE
        if self._can_pack():
            self.model.set_attn_implementation(attention.NAME)
            self.head = LogprobHead.in_place_of(self.model, self.config.temperature)

    def _can_pack(self) -> bool:
        """Whether this model and its split over GPUs allow for packs; else AReaL computes each sequence whole."""
        split = self.parallel_helper.tp_size > 1 or self.parallel_helper.sp_size > 1 or self.enable_tree_training
        windows = "sliding_attention" in (getattr(self.model.config, "layer_types", None) or ())
        return (
            self.config.attn_impl in MASKS_FROM_POSITIONS
            and not (split or windows)
            and self.model._supports_attention_backend  # noqa: SLF001 - transformers has no public form
            and LogprobHead.fits(self.model)
        )

    @override
    def prepare_batch(self, *args, **kwargs) -> list[dict[str, Any]]:
        """On one rank without AReaL's gathering, dealing out and broadcasting, each of which pickles the batch."""
        if dist.get_world_size() > 1:
            return super().prepare_batch(*args, **kwargs)
        groups = self.rollout_engine.prepare_batch(*args, **kwargs)
        return [cast(dict, tensor_container_to(group, self.device)) for group in groups]

    @override
    def _prepare_mb_list(self, input_: dict[str, Any]):
        mb_list = self._microbatches(input_)
        self.microbatch = (-1, len(mb_list.mbs))  # the first is about to begin
        return mb_list

    def _microbatches(self, input_: dict[str, Any]):
        if self.head:
            ranks = self.data_parallel_group if self.data_parallel_world_size > 1 else None
            return packing.microbatches(input_, self.config.mb_spec, ranks)
        mb_list = super()._prepare_mb_list(input_)
        if self.config.attn_impl in MASKS_FROM_POSITIONS and not self.enable_tree_training:
            for microbatch in [*mb_list.mbs, *(mb_list.padded_mbs or ())]:
                microbatch["attention_mask"] = None
        return mb_list

    @override
    def _prepare_mb_inputs(self, mb_item):
        inputs, context = super()._prepare_mb_inputs(mb_item)
        done, of = self.microbatch
        self.microbatch = (done + 1, of)
        if self.head:
            self.head.pack = inputs["pack"]
            for rows in self.attended:
                rows.forget_mask()
            self.attended = inputs["pack"].rows
            if self.data_parallel_world_size == 1:  # with more ranks whole gradients would have to be kept on each
                self.model.set_requires_gradient_sync(inputs["pack"].last)
        return inputs, context

    @override
    def _compute_logprobs_entropy(self, logits, inputs, ulysses_pad_size=0):
        return logits.unbind(-1) if self.head else super()._compute_logprobs_entropy(logits, inputs, ulysses_pad_size)

    @override
    def _compute_logprobs(self, logits, inputs, ulysses_pad_size=0):
        return logits[:, 0] if self.head else super()._compute_logprobs(logits, inputs, ulysses_pad_size)

    @override
    def _get_vocab_min_max_logits(self, logits, ulysses_pad_size=0):
        return (None, None) if self.head else super()._get_vocab_min_max_logits(logits, ulysses_pad_size)

    @override
    def _update_weights_from_disk(self, meta: WeightUpdateMeta):
        """Save the weights and have every server load them.

        A server may die at any moment and is restarted with the folder `on_weights_saved` got last, so that nobody
        trains on samples of another version than the samples carry:
        - idle, generating, evaluating: the last folder is the current version; clients repeat their requests.
        - saving: the new folder is not named before it is whole, so the restarted server has the old weights. The
          server cannot miss the update, which ends only when every server has loaded the new weights.
        - from there to the end of the update: the restarted server has the new weights, perhaps loads them again, and
          is not paused. AReaL starts no completion then: it paused the rollouts of every rank before the update (the
          save ends in a barrier) and goes on after the version was counted up. One that the server's death cut short
          asks again, and its tokens pass for the old version's (training/weight_versions.py), the safe side.
        The older folder goes when all servers have the new one: no server can then be starting from the older folder.
        """
        meta = replace(meta, clear_checkpoint_after_load=False, use_lora=False)  # the folder holds a whole model
        if not self._save_like_before(meta.path):
            self._save_model_to_hf(meta.path, self.tokenizer, self.processor)
        dist.barrier(group=self.cpu_group)
        if dist.get_rank() == 0:
            self.on_weights_saved(meta.path)
            if not self.load_later:
                self._load_into_servers(meta)
            if self.served not in (None, meta.path):
                shutil.rmtree(self.served, ignore_errors=True)
            self.served = meta.path
        current_platform.synchronize()
        dist.barrier(group=self.cpu_group)

    def _save_like_before(self, folder: str) -> bool:
        if self.config.fsdp.offload_params:  # only AReaL's own way gathers parameters that lie on the CPU
            return False
        ranks = Ranks(dist.get_rank(), self.cpu_group)
        return weights.save_like(self.served, folder, self.model, getattr(torch, self.config.dtype), ranks)

    def _load_into_servers(self, meta: WeightUpdateMeta) -> None:
        name = names.update_weights_from_disk(self.config.experiment_name, self.config.trial_name, self.get_version())
        name_resolve.add(name, str(datetime.now().timestamp()), keepalive_ttl=120, replace=True)
        self.rollout_engine.pause_generation()
        try:
            self.rollout_engine.update_weights_from_disk(meta).result()
        finally:
            self.rollout_engine.continue_generation()

    @override
    def _save_model_to_hf(self, path: str, tokenizer, processor) -> None:
        if not self.config.use_lora:
            super()._save_model_to_hf(path, tokenizer, processor)
            return
        gathered = get_model_state_dict(self.model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
        if dist.get_rank() == 0:
            scaling, dtype = self.config.lora_alpha / self.config.lora_rank, getattr(torch, self.config.dtype)
            merged = lora.merged(gathered, scaling, dtype)
            self.model.get_base_model().save_pretrained(path, state_dict=merged)
            for part in (self.model_config, tokenizer, processor):
                if part is not None:
                    part.save_pretrained(path)
        dist.barrier(group=self.cpu_group)

    @override
    @classmethod
    def as_controller(cls, config: PPOActorConfig, scheduler: Scheduler) -> ActorController:
        return ActorController(train_engine=cls, config=config, scheduler=scheduler)

    def keep_rows(self, rows: list[dict[str, Any]]) -> None:
        self.rows = rows

    def take_rows(self) -> list[dict[str, Any]]:
        """The rows of the last batch that no hook took."""
        rows, self.rows = self.rows, []
        return rows

    def shuffle_rewards(self, seed: int) -> None:
        """Control run: from here on permute the rewards within each batch."""
        self.shuffle_seed = seed

    def reduce_loss(self, reduction: str) -> None:
        """From here on average the loss by this `loss_reduction` (areal_gsm8k/settings.py)."""
        self.loss_reduction = reduction

    @override
    def train_batch(self, input_: dict[str, Any], loss_fn: Callable, loss_weight_fn: Callable) -> dict[str, float]:
        """One optimiser step on a minibatch: AReaL's mean loss over tokens or, by `reduce_loss`, over completions.

        A completion's part is its sum over tokens, divided by their number (`sequence_mean`: GRPO, GSPO, SAPO) or by
        `max_new_tokens` (`constant_length`: Dr. GRPO, arXiv 2503.20783, section 3.2). AReaL's losses grow with the
        advantages in proportion, so we divide the advantages. `input_` holds advantages and loss_mask, (B, T).
        """

        def noted(logprobs, entropy, microbatch: dict[str, Any], **logits) -> torch.Tensor:
            if proximal_from_update(self.config):
                microbatch["prox_logp"] = logprobs.detach()
            computed_before = self.config.should_compute_prox_logp()
            own = microbatch["prox_logp"] if computed_before else logprobs.detach()
            self.gaps |= logprob_gaps(microbatch, own, self.get_version())
            return loss_fn(logprobs, entropy, microbatch, **logits)

        if self.loss_reduction == "token_mean":
            return super().train_batch(input_, noted, loss_weight_fn)
        tokens_B1 = input_["loss_mask"].sum(-1, keepdim=True).clamp(min=1)
        divisor = tokens_B1 if self.loss_reduction == "sequence_mean" else self.config.max_new_tokens
        input_ = input_ | {"advantages": input_["advantages"] / divisor}

        def completions(microbatch: dict[str, Any]) -> torch.Tensor:
            return microbatch["loss_mask"].new_tensor(len(microbatch["cu_seqlens"]) - 1)

        def mean_over_completions(logprobs, entropy, microbatch: dict[str, Any], **logits) -> torch.Tensor:
            mean_over_tokens = noted(logprobs, entropy, microbatch, **logits)
            return mean_over_tokens * loss_weight_fn(microbatch) / completions(microbatch)

        return super().train_batch(input_, mean_over_completions, completions)

    @override
    @torch.no_grad()
    def compute_advantages(self, data: list[dict[str, Any]], *args, **kwargs) -> list[dict[str, Any]]:
        if self.shuffle_seed is not None:
            data = self._shuffled(data, self.shuffle_seed)
        # AReaL may overwrite the server's logprobs with the trainer's.
        data = [group | {"rollout_logprobs": group["logprobs"].roll(-1, dims=-1)} for group in data]
        groups = super().compute_advantages(data, *args, **kwargs)
        # Tensor-parallel ranks hold copies of their head's batch.
        heads = groups if self.is_data_parallel_head() else []
        self._batch_rows, self.gaps = sample_rows(heads, rank=dist.get_rank()), {}
        self.on_advantages()
        return [group | {"sample_id": _of_each_token(group)} for group in groups]

    @override
    def ppo_update(self, *args, **kwargs) -> None:
        super().ppo_update(*args, **kwargs)
        if self.gives_back:
            heap.give_back()
        self.on_update([row | self.gaps.get(row["id"], {}) for row in self._batch_rows])

    def _shuffled(self, groups: list[dict[str, Any]], seed: int) -> list[dict[str, Any]]:
        """The same groups with their rewards permuted over the whole batch of this rank."""
        rewards_B = torch.cat([group["rewards"] for group in groups])
        generator = torch.Generator().manual_seed(seed + self.get_version())
        shuffled_B = rewards_B[torch.randperm(len(rewards_B), generator=generator)]
        sizes = [len(group["rewards"]) for group in groups]
        return [group | {"rewards": part} for group, part in zip(groups, shuffled_B.split(sizes), strict=True)]


def proximal_from_update(config: PPOActorConfig) -> bool:
    """Whether pi_prox is the policy of the update's own forward pass: so it is when a batch gets one optimiser step."""
    skipped = config.use_decoupled_loss and not config.should_compute_prox_logp()
    return skipped and config.ppo_n_minibatches == 1


def skip_needless_pass(config: PPOActorConfig) -> None:
    """Spare the forward pass for pi_prox before a batch's only update, whose own forward pass gives the same numbers.

    AReaL knows one name for "no pass before the update", `loglinear`, and approximates pi_prox then if nobody gives it;
    `PackedActor.train_batch` does.
    """
    if config.use_decoupled_loss and config.ppo_n_minibatches == 1 and config.prox_logp_method == "recompute":
        config.prox_logp_method = "loglinear"


def _of_each_token(group: dict[str, Any]) -> torch.Tensor:
    """The samples' ids, (G, T): AReaL reorders samples, and splits only what has a value for each token."""
    return group["sample_id"][:, None].expand_as(group["loss_mask"]).contiguous()
