"""Is this configuration one that can be run? Arithmetic, names and GPUs, before anything is started.

Called by config/compose.py and resume.py; see it without starting anything: `./run train --dry-run`
"""

from omegaconf import DictConfig

from areal_gsm8k.config import capacity, devices
from areal_gsm8k.config.allocation import Allocation
from areal_gsm8k.config.schema import ConfigError
from areal_gsm8k.data import prompts
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
    """Raise ConfigError when the allocation needs more GPUs than this machine, or the cluster asked for, has."""
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
    """Arithmetic and names that AReaL would only stumble over minutes later, or not at all."""
    batch, ranks = values["train_dataset"]["batch_size"], alloc.train.data
    gconfig, actor = values["gconfig"], values["actor"]
    budget = actor["mb_spec"]["max_tokens_per_mb"]
    completions = gconfig["n_samples"] if values["dynamic_bs"] else batch * gconfig["n_samples"] // ranks
    for key in ("data.train_rows", "data.dev_rows", "train_dataset.batch_size", "valid_dataset.batch_size"):
        section, leaf = key.split(".")
        if values[section][leaf] is not None and values[section][leaf] < 1:
            raise ConfigError(f"{key}={values[section][leaf]}: at least 1.")
    for key in ("train_dataset.batch_size", "valid_dataset.batch_size"):
        size = values[key.split(".")[0]]["batch_size"]
        if size % ranks:
            raise ConfigError(f"{key}={size} must be a multiple of the {ranks} data-parallel trainers.")
    for section in ("gconfig", "eval_gconfig"):
        if values[section]["max_new_tokens"] < 1:
            raise ConfigError(f"{section}.max_new_tokens={values[section]['max_new_tokens']}: at least 1.")
    _check_choices(values, alloc.rollout.backend)
    _check_server(values, alloc.rollout.backend)
    capacity.check(values["rollout"], batch, ranks)
    devices.check_turns(values, alloc)
    try:
        band.configured(values)
    except band.BandError as wrong:
        raise ConfigError(
            f"expected_band={values['expected_band']}: {wrong} expected_band=null does without."
        ) from None
    mistakes = [
        (
            values["answer_format"] not in prompts.FORMATS,
            f"answer_format={values['answer_format']!r}: choose one of {', '.join(prompts.FORMATS)}.",
        ),
        (
            gconfig["n_samples"] < 2,
            f"gconfig.n_samples={gconfig['n_samples']}: GRPO compares samples of one prompt, so at least 2.",
        ),
        (
            budget is None or budget <= gconfig["max_new_tokens"],
            f"actor.mb_spec.max_tokens_per_mb={budget} must exceed the longest prompt plus "
            f"gconfig.max_new_tokens={gconfig['max_new_tokens']}.",
        ),
        (
            values["drop_groups_without_signal"] and not values["dynamic_bs"],
            "drop_groups_without_signal=true needs dynamic_bs=true: a batch of rejected groups would never end.",
        ),
        (
            values["dynamic_bs"] and ranks > 1,
            f"dynamic_bs=true with {ranks} data-parallel trainers: AReaL cannot share out batches of different sizes. "
            "Use one data-parallel trainer (tensor parallelism is fine), or dynamic_bs=false.",
        ),
        (
            values["embedded"]["restarts"] < 0,
            f"embedded.restarts={values['embedded']['restarts']}: 0 ends the run with its first dead server.",
        ),
        *(
            (
                not 0 <= values["collapse"][share] <= 1,
                f"collapse.{share}={values['collapse'][share]}: a share between 0 and 1.",
            )
            for share in ("reward", "truncated")
        ),
        (
            actor["ppo_n_minibatches"] > completions,
            f"actor.ppo_n_minibatches={actor['ppo_n_minibatches']}: each needs a completion, and a trainer may get as "
            f"few as {completions} a step. Lower it, or raise gconfig.n_samples or train_dataset.batch_size.",
        ),
        (
            values["loss_reduction"] not in LOSS_REDUCTIONS,
            f"loss_reduction={values['loss_reduction']!r}: choose one of {', '.join(LOSS_REDUCTIONS)}.",
        ),
        (
            not 0 < (actor.get("overlong_tokens") or 1) <= gconfig["max_new_tokens"],
            f"actor.overlong_tokens={actor.get('overlong_tokens')}: the penalty begins so many tokens before "
            f"gconfig.max_new_tokens={gconfig['max_new_tokens']}, so at least 1 and at most that.",
        ),
        (
            actor.get("use_sapo_loss") and actor["use_decoupled_loss"],
            "actor.use_sapo_loss=true needs actor.use_decoupled_loss=false: SAPO's gate takes the place of the clip "
            "and of the correction for stale samples. --config configs/algorithms/sapo.yaml sets both.",
        ),
        (
            actor.get("use_lora") and actor["weight_update_mode"] != "disk",
            f"actor.weight_update_mode={actor['weight_update_mode']} with LoRA: servers get the merged weights, made "
            "when they are saved; set it to disk.",
        ),
        (
            actor.get("use_lora") and alloc.train.tensor > 1,
            f"allocation_mode={alloc} with LoRA: AReaL's tensor-parallel plan does not know the adapter's layers. Use "
            "data parallelism for the trainer (fsdp.d2), which shards the weights as well.",
        ),
        (
            values["rollout"].get("use_lora"),
            "rollout.use_lora=true: the servers get the adapter merged into the model; leave it out.",
        ),
        (
            values["recover"]["mode"] not in ("disabled", "off"),
            f"recover.mode={values['recover']['mode']}: AReaL's own recovery overwrites its only checkpoint in place, "
            "and ours takes its place. Leave the mode disabled, say how often to save with recover.freq_steps or "
            "recover.freq_secs, and go on with ./run train --resume RUN.",
        ),
        (
            values["scheduler"]["type"] not in (None, *SCHEDULERS),
            f"scheduler.type={values['scheduler']['type']!r}: choose one of {', '.join(SCHEDULERS)} for AReaL's single "
            "controller, or leave it out.",
        ),
        (
            values["scheduler"]["type"] == "slurm" and alloc.rollout.backend == "embedded",
            "scheduler.type=slurm with embedded rollout servers: they answer on the launcher's machine only, and Slurm "
            "chooses where workers run. Use scheduler.type=local, or sglang or vllm in allocation_mode.",
        ),
        (
            actor["weight_update_mode"] == "xccl" and alloc.rollout.backend == "embedded",
            "actor.weight_update_mode=xccl: the embedded server takes its weights from disk; set it to disk.",
        ),
    ]
    for wrong, message in mistakes:
        if wrong:
            raise ConfigError(message)


def _check_choices(values: dict, backend: str) -> None:
    for key, allowed in CHOICES.items():
        section, _, rest = key.partition(".")
        if section in SERVERS and section != backend:
            continue
        value = values[section]
        for name in rest.split("."):
            value = (value or {}).get(name)
        if value is not None and value not in allowed:
            raise ConfigError(f"{key}={value}: choose one of {', '.join(allowed)}.")


def _check_server(values: dict, backend: str) -> None:
    """The share of memory and the longest sequence of the chosen rollout server; the embedded one has neither."""
    if backend not in SERVERS:
        return
    longest, share = ((f"{backend}.{key}", values[backend].get(key)) for key in SERVERS[backend])
    if share[1] is not None and not 0 < share[1] <= 1:
        raise ConfigError(f"{share[0]}={share[1]}: a share of the GPU's memory, above 0 and at most 1.")
    for section in ("gconfig", "eval_gconfig"):
        new = values[section]["max_new_tokens"]
        if longest[1] is not None and longest[1] <= new:
            raise ConfigError(
                f"{longest[0]}={longest[1]} must exceed the longest prompt plus {section}.max_new_tokens={new}: the "
                "server refuses longer requests."
            )
