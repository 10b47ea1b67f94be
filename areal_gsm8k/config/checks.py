"""Can this configuration run? Arithmetic, names and GPUs, checked before anything is started.

config/compose.py and launch/resume.py call these checks; to run them without starting anything: `./run train --dry-run`
"""

from collections.abc import Iterator

from omegaconf import DictConfig

from areal_gsm8k.config import capacity, devices
from areal_gsm8k.config.allocation import Allocation
from areal_gsm8k.config.schema import ConfigError
from areal_gsm8k.data import prompts
from areal_gsm8k.dotted_keys import lookup
from areal_gsm8k.watch import band

ELSEWHERE = ("ray", "slurm")  # the GPUs may be on other machines than this one
SCHEDULERS = ("local", *ELSEWHERE)
LOSS_REDUCTIONS = ("token_mean", "sequence_mean", "constant_length")
CHOICES = {  # AReaL's (api/cli_args.py, TrainEngineConfig; engine/fsdp_engine.py), then SGLang's and vLLM's
    "actor.dtype": ("float32", "bfloat16", "float16", "fp32", "bf16", "fp16"),
    "actor.optimizer_dtype": ("float32", "bfloat16", "fp32", "bf16"),
    "actor.optimizer.type": ("adam", "adam_bf16", "sgd"),
    **{f"{server}.dtype": ("auto", "half", "float16", "bfloat16", "float", "float32") for server in ("sglang", "vllm")},
}
SERVERS = {  # rollout back end: its keys for the longest sequence in tokens and for its share of a GPU
    "sglang": ("context_length", "mem_fraction_static"),
    "vllm": ("max_model_len", "gpu_memory_utilization"),
}


def check_gpus(alloc: Allocation, values: DictConfig | dict, gpus: int) -> None:
    """Raise ConfigError when the allocation needs more GPUs than this machine, or the configured cluster, has."""
    if alloc.rollout.backend == "embedded":
        return
    nodes, each = (values["cluster"][key] for key in ("n_nodes", "n_gpus_per_node"))
    where = "this machine has"
    if nodes > 1 or values["scheduler"]["type"] in ELSEWHERE:
        gpus, where = nodes * each, f"cluster.n_nodes={nodes} with cluster.n_gpus_per_node={each} make"
    if not gpus:
        raise ConfigError(
            f"allocation_mode={str(alloc)!r}: {alloc.rollout.backend} needs an NVIDIA GPU and none answers "
            "`nvidia-smi -L` (or CUDA_VISIBLE_DEVICES hides it). Without one use the embedded back end: "
            "allocation_mode=embedded.d1+fsdp.d1, or the whole CPU recipe, before other overlays: --config "
            "configs/cpu.yaml. `gsm8k plan` and `gsm8k recipes show` need no GPU."
        )
    devices.check(alloc, gpus, values["actor"]["weight_update_mode"], where)


def check_values(values: dict, alloc: Allocation) -> None:
    """Raise ConfigError for arithmetic and names that AReaL would report minutes later, or never."""
    for mistake in _mistakes(values, alloc):
        raise ConfigError(mistake)


def _mistakes(values: dict, alloc: Allocation) -> Iterator[str]:
    """The mistakes, one or two sentences each; a generator, so nothing behind the first is looked at or worded."""
    batch, ranks = values["train_dataset"]["batch_size"], alloc.train.data
    gconfig, actor = values["gconfig"], values["actor"]
    sizes = ("data.train_rows", "data.dev_rows", "train_dataset.batch_size", "valid_dataset.batch_size")
    for key in (*sizes, "preflight_prompts"):
        if (size := lookup(values, key)) is not None and size < 1:
            yield f"{key}={size}: at least 1."
        if key.endswith("batch_size") and size is not None and size % ranks:
            yield f"{key}={size} must be a multiple of the {ranks} data-parallel trainers."
    for section in ("gconfig", "eval_gconfig"):
        if values[section]["max_new_tokens"] < 1:
            yield f"{section}.max_new_tokens={values[section]['max_new_tokens']}: at least 1."
    yield from _wrong_choices(values, alloc.rollout.backend)
    yield from _wrong_sizes(values, alloc.rollout.backend)
    capacity.check(values["rollout"], batch, ranks)
    devices.check_turns(values, alloc)
    try:
        band.configured(values)
    except band.BandError as wrong:
        yield f"expected_band={values['expected_band']}: {wrong} expected_band=null does without."
    yield from _wrong_algorithm(values, gconfig, actor, batch, ranks)
    yield from _wrong_placement(values, actor, alloc)


def _wrong_algorithm(values: dict, gconfig: dict, actor: dict, batch: int, ranks: int) -> Iterator[str]:
    """Mistakes in sampling, reward and loss."""
    if values["answer_format"] not in prompts.FORMATS:
        yield f"answer_format={values['answer_format']!r}: choose one of {', '.join(prompts.FORMATS)}."
    if gconfig["n_samples"] < 2:
        yield f"gconfig.n_samples={gconfig['n_samples']}: GRPO compares samples of one prompt, so at least 2."
    budget = actor["mb_spec"]["max_tokens_per_mb"]
    if budget is None or budget <= gconfig["max_new_tokens"]:
        yield (
            f"actor.mb_spec.max_tokens_per_mb={budget} must exceed the longest prompt plus "
            f"gconfig.max_new_tokens={gconfig['max_new_tokens']}."
        )
    if values["drop_groups_without_signal"] and not values["dynamic_bs"]:
        yield "drop_groups_without_signal=true needs dynamic_bs=true: a batch of rejected groups would never end."
    if values["dynamic_bs"] and ranks > 1:
        yield (
            f"dynamic_bs=true with {ranks} data-parallel trainers: AReaL cannot share out batches of different sizes. "
            "Use one data-parallel trainer (tensor parallelism is fine), or dynamic_bs=false."
        )
    if values["embedded"]["restarts"] < 0:
        yield f"embedded.restarts={values['embedded']['restarts']}: 0 ends the run with its first dead server."
    for share in ("reward", "truncated"):
        if not 0 <= values["collapse"][share] <= 1:
            yield f"collapse.{share}={values['collapse'][share]}: a share between 0 and 1."
    completions = gconfig["n_samples"] if values["dynamic_bs"] else batch * gconfig["n_samples"] // ranks
    if actor["ppo_n_minibatches"] > completions:
        yield (
            f"actor.ppo_n_minibatches={actor['ppo_n_minibatches']}: each needs a completion, and a trainer may get as "
            f"few as {completions} a step. Lower it, or raise gconfig.n_samples or train_dataset.batch_size."
        )
    if values["loss_reduction"] not in LOSS_REDUCTIONS:
        yield f"loss_reduction={values['loss_reduction']!r}: choose one of {', '.join(LOSS_REDUCTIONS)}."
    if not 0 < (actor.get("overlong_tokens") or 1) <= gconfig["max_new_tokens"]:
        yield (
            f"actor.overlong_tokens={actor.get('overlong_tokens')}: the penalty begins so many tokens before "
            f"gconfig.max_new_tokens={gconfig['max_new_tokens']}, so at least 1 and at most that."
        )
    if actor.get("use_sapo_loss") and actor["use_decoupled_loss"]:
        yield (
            "actor.use_sapo_loss=true needs actor.use_decoupled_loss=false: SAPO's gate takes the place of the clip "
            "and of the correction for stale samples. --config configs/algorithms/sapo.yaml sets both."
        )


def _wrong_placement(values: dict, actor: dict, alloc: Allocation) -> Iterator[str]:
    """Mistakes in the placement of processes and in the transport of weights."""
    if actor.get("use_lora") and actor["weight_update_mode"] != "disk":
        yield (
            f"actor.weight_update_mode={actor['weight_update_mode']} with LoRA: servers get the merged weights, made "
            "when they are saved; set it to disk."
        )
    if actor.get("use_lora") and alloc.train.tensor > 1:
        yield (
            f"allocation_mode={alloc} with LoRA: AReaL's tensor-parallel plan does not know the adapter's layers. Use "
            "data parallelism for the trainer (fsdp.d2), which shards the weights as well."
        )
    if values["rollout"].get("use_lora"):
        yield "rollout.use_lora=true: the servers get the adapter merged into the model; leave it out."
    if values["recover"]["mode"] not in ("disabled", "off"):
        yield (
            f"recover.mode={values['recover']['mode']}: AReaL's own recovery overwrites its only checkpoint in place, "
            "and ours takes its place. Leave the mode disabled, say how often to save with recover.freq_steps or "
            "recover.freq_secs, and go on with ./run train --resume RUN."
        )
    scheduler, embedded = values["scheduler"]["type"], alloc.rollout.backend == "embedded"
    if scheduler not in (None, *SCHEDULERS):
        yield (
            f"scheduler.type={scheduler!r}: choose one of {', '.join(SCHEDULERS)} for AReaL's single controller, or "
            "leave it out."
        )
    if scheduler == "slurm" and embedded:
        yield (
            "scheduler.type=slurm with embedded rollout servers: they answer on the launcher's machine only, and Slurm "
            "chooses where workers run. Use scheduler.type=local, or sglang or vllm in allocation_mode."
        )
    if actor["weight_update_mode"] == "xccl" and embedded:
        yield "actor.weight_update_mode=xccl: the embedded server takes its weights from disk; set it to disk."


def _wrong_choices(values: dict, backend: str) -> Iterator[str]:
    for key, allowed in CHOICES.items():
        section, value = key.partition(".")[0], lookup(values, key)
        if (section == backend or section not in SERVERS) and value is not None and value not in allowed:
            yield f"{key}={value}: choose one of {', '.join(allowed)}."


def _wrong_sizes(values: dict, backend: str) -> Iterator[str]:
    """The share of memory and the longest sequence of the chosen rollout server; the embedded one has neither."""
    if backend not in SERVERS:
        return
    longest, share = ((f"{backend}.{key}", values[backend].get(key)) for key in SERVERS[backend])
    if share[1] is not None and not 0 < share[1] <= 1:
        yield f"{share[0]}={share[1]}: a share of the GPU's memory, above 0 and at most 1."
    for section in ("gconfig", "eval_gconfig"):
        new = values[section]["max_new_tokens"]
        if longest[1] is not None and longest[1] <= new:
            yield (
                f"{longest[0]}={longest[1]} must exceed the longest prompt plus {section}.max_new_tokens={new}: the "
                "server refuses longer requests."
            )
