"""From a resolved configuration to the processes of a run: the trainer, the servers and their settings.

`values` are those of config/compose.py, make_plan. A missing key has AReaL 1.0.4's default
(areal/api/cli_args.py).
"""

from collections.abc import Mapping

from areal_gsm8k.config import allocation
from areal_gsm8k.config.allocation import Allocation
from areal_gsm8k.dotted_keys import lookup
from areal_gsm8k.plan.memory.activations import MASKED
from areal_gsm8k.plan.memory.model_shape import ModelShape, ShapeError
from areal_gsm8k.plan.memory.packs import worst
from areal_gsm8k.plan.memory.server import Server
from areal_gsm8k.plan.memory.trainer import BYTES, Trainer

PROMPT = 320  # tokens: no GSM8K question has more than 206 words, digits and signs; the rest is for the chat template
PAGE = 256  # AReaL pads its micro-batches to a multiple of this (areal/utils/data.py, N_TOKENS_PER_PAGE)
DEFAULTS = {
    "actor.dtype": "bfloat16",
    "actor.optimizer_dtype": "float32",
    "actor.attn_impl": "flash_attention_2",
    "actor.ppo_n_minibatches": 4,
    "actor.optimizer.type": "adam",
    "actor.prox_logp_method": "recompute",
    "sglang.mem_fraction_static": 0.9,
    "sglang.max_prefill_tokens": 32768,
    "sglang.chunked_prefill_size": -1,
    "vllm.gpu_memory_utilization": 0.9,
}
VLLM_PREFILL = 2048  # vLLM's own max_num_batched_tokens
SHARES = {"sglang": "sglang.mem_fraction_static", "vllm": "vllm.gpu_memory_utilization"}


def get(values: Mapping, key: str):
    """The value at a dotted key, or AReaL's default, or None."""
    value = lookup(values, key)
    return DEFAULTS.get(key) if value is None else value


def allocated(values: Mapping) -> Allocation:
    return allocation.parse(str(values["allocation_mode"]))


def longest(values: Mapping) -> int:
    """Tokens of the longest sequence: prompt and completion."""
    return PROMPT + get(values, "gconfig.max_new_tokens")


def check_heads(values: Mapping, shape: ModelShape) -> None:
    """Raise ShapeError when a tensor-parallel size does not divide the model's attention heads.

    AReaL's trainer splits key-value heads as well (areal/engine/fsdp_utils/parallel.py, apply_non_moe_tp). SGLang and
    vLLM give each rank a copy where there are fewer heads than ranks (sglang/srt/models/qwen2.py).
    """
    sides, heads, kv = allocated(values), shape.heads, shape.kv_heads
    trained = [size for size in range(1, heads + 1) if heads % size == kv % size == 0]
    served = [size for size in range(1, heads + 1) if heads % size == 0 and 0 in (kv % size, size % kv)]
    for side, sizes in ((sides.rollout, served), (sides.train, trained)):
        if side.tensor not in sizes:
            raise ShapeError(
                f"allocation_mode={sides}: {side.backend} cannot split {heads} attention heads and {kv} key-value "
                f"heads into t{side.tensor}; sizes that divide them: {', '.join(f't{size}' for size in sizes)}."
            )


def trainer(values: Mapping, shape: ModelShape, on_gpu: bool) -> Trainer:
    """One rank of the trainer with the largest micro-batch possible."""
    side = allocated(values).train
    samples, new, minibatches = (
        get(values, key) for key in ("gconfig.n_samples", "gconfig.max_new_tokens", "actor.ppo_n_minibatches")
    )
    sequences = -(-(get(values, "train_dataset.batch_size") * samples // side.data) // minibatches)
    packs = in_packs(values, shape)
    update = -(-sequences // samples) * PROMPT + sequences * new if packs else sequences * longest(values)
    budget = get(values, "actor.mb_spec.max_tokens_per_mb") or update
    tokens = min(budget, update) if packs else -(-min(budget, update) // PAGE) * PAGE
    stored, reference = BYTES[get(values, "actor.optimizer_dtype")], 0
    if get(values, "ref") and get(values, "actor.kl_ctl"):  # as AReaL decides (areal/trainer/rl_trainer.py)
        reference = BYTES[get(values, "ref.optimizer_dtype") or get(values, "actor.optimizer_dtype")]
    return Trainer(
        shape=shape,
        tokens=tokens,
        several=update > budget,
        element=BYTES[get(values, "actor.dtype")],
        stored=stored,
        optimizer=get(values, "actor.optimizer.type"),
        checkpointing=bool(get(values, "actor.gradient_checkpointing")),
        attention=get(values, "actor.attn_impl"),
        data=side.data,
        tensor=side.tensor,
        reference=reference,
        compiled=on_gpu,
        adapter=(get(values, "actor.lora_rank") or 32) if get(values, "actor.use_lora") else 0,
        offload=on_gpu and bool(get(values, "actor.fsdp.offload_params")),
        step_by_layer=on_gpu and bool(get(values, "actor.fsdp.per_layer_optim_step")),
        load_sharded=bool(get(values, "actor.fsdp.memory_efficient_load")),
        pack=worst(tokens, PROMPT, new, samples, on_gpu) if packs else None,
        passes_before=bool(reference) or _recomputes(values),
    )


def in_packs(values: Mapping, shape: ModelShape) -> bool:
    """Whether the trainer computes every prompt once and no logits (areal_gsm8k/training/actor.py, _can_pack)."""
    whole = allocated(values).train.tensor > 1 or get(values, "actor.enable_tree_training")
    return shape.packs and get(values, "actor.attn_impl") in MASKED and not whole


def _recomputes(values: Mapping) -> bool:
    """Whether logprobs are computed before the update; before a batch's only one they are the update's own."""
    if not get(values, "actor.use_decoupled_loss"):
        return bool(get(values, "actor.recompute_logprob"))
    method = get(values, "actor.prox_logp_method")
    return method == "metrics" or (method == "recompute" and get(values, "actor.ppo_n_minibatches") > 1)


def server(values: Mapping, shape: ModelShape) -> Server:
    """One rank of one rollout server with as many sequences as AReaL lets run at once."""
    side = allocated(values).rollout
    consumer = get(values, "rollout.consumer_batch_size")
    allowed = (get(values, "rollout.max_head_offpolicyness") + 1) * consumer  # staleness_manager.py
    groups = -(-min(get(values, "rollout.max_concurrent_rollouts") or consumer, allowed) // side.data)
    sequences = groups * get(values, "gconfig.n_samples")
    most = {"sglang": "sglang.max_running_requests", "vllm": "vllm.max_num_seqs"}
    limit = get(values, most.get(side.backend, "embedded.max_running_requests"))
    chunk = get(values, "sglang.chunked_prefill_size")
    prefill = {"sglang": chunk if chunk > 0 else get(values, "sglang.max_prefill_tokens"), "vllm": VLLM_PREFILL}
    dtype = get(values, {"sglang": "sglang.dtype", "vllm": "vllm.dtype"}.get(side.backend, "actor.dtype"))
    return Server(
        backend=side.backend,
        shape=shape,
        element=BYTES.get(dtype, 2),
        sequences=min(sequences, limit or sequences),
        prompts=groups,
        prompt=PROMPT,
        length=longest(values),
        share=get(values, SHARES[side.backend]) if side.backend in SHARES else 0.0,
        tensor=side.tensor,
        pipeline=side.pipeline,
        prefill=prefill.get(side.backend, 16384),
        graphs=0 if get(values, "sglang.disable_cuda_graph") else get(values, "sglang.cuda_graph_max_bs"),
        packed=side.backend == "embedded" and dtype == "bfloat16",
    )
