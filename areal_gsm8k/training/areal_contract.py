"""What we touch in AReaL: every name, public or private, that we override, call or read, with its signature.

    python -m areal_gsm8k.training.areal_contract     # writes areal_contract.json anew

AReaL makes no promise about most of these names, and a rename would often go unnoticed: an override that nobody calls
any more, a hook that never fires. So `broken` compares them with the installed AReaL before anything of a
run is started (launch/prewarm.py, training/areal_launcher.py), and a test does so in every CI. PyPI's 1.0.4 is not the
repository's tag v1.0.4: 75 files differ, and resume and LoRA break on a checkout.
"""

import inspect
import json
import re
import sys
from functools import cache
from importlib import import_module
from importlib.metadata import version
from pathlib import Path

from areal_gsm8k.runs.files import write_atomically

FILE = Path(__file__).with_suffix(".json")
ATTRIBUTE = "attribute"  # an instance attribute, which has no signature; we look for it in the source of its class

# module: {class or function: members}. A reason stands beside every private name.
TOUCHED: dict[str, dict[str, tuple[str, ...]]] = {
    "areal.trainer.rl_trainer": {
        "PPOTrainer": (
            "train_dataloader", "stats_logger", "evaluator", "saver", "recover_handler",  # ours take their places
            "actor", "ref", "rollout", "eval_rollout", "tokenizer", "processor",
            "__init__", "train", "close", "recover_info", "weight_update_meta", "scheduler", "actor_alloc",
            "rollout_alloc",
            "_create_train_engine",  # the only place where the actor's class is chosen
            "_init_scheduler",  # AReaL's Slurm scheduler is made without the keys that name its container
            "_init_rollout",  # AReaL's wants sglang installed to connect to servers that run
            "_save_initial_lora_weights",  # AReaL loads bare adapters into servers, ours take whole models
            "_evaluate_fn",  # an evaluation before the first step and after the last
            "_onload_rollout", "_offload_rollout",  # colocation loses the server's weights (colocation.py)
        ),
    },
    "areal.engine.fsdp_engine": {
        "FSDPPPOActor": (
            "__init__", "train_batch", "compute_advantages", "as_controller", "get_version", "set_version", "save",
            "load", "update_weights", "is_data_parallel_head", "lr_scheduler", "cpu_group", "prepare_batch",
            "ppo_update", "compute_logp", "data_parallel_group", "data_parallel_world_size", "parallel_helper",
            "enable_tree_training", "device",
            "_create_device_model",  # asks every model for num_key_value_heads
            "_prepare_mb_list",  # packs sequences whole, under a mask by which they see one another
            "_prepare_mb_inputs",  # the last place before the model that knows the microbatch
            "_compute_logprobs", "_compute_logprobs_entropy", "_get_vocab_min_max_logits",  # what it takes of logits
            "_update_weights_from_disk",  # announces the folder a second before it is there
            "_save_model_to_hf",  # LoRA: saved weights have the adapter merged in
        ),
    },
    "areal.trainer.ppo.actor": {
        "PPOActorController": (
            "compute_advantages", "ppo_update",
            "_call_workers", "_custom_function_call",  # the only ways to our own methods in the workers
        ),
    },
    "areal.infra.controller.rollout_controller": {
        "RolloutController": (
            "__init__", "initialize", "prepare_batch", "dispatcher", "server_infos", "data_generator",
            "_create_submit_callback",  # the only place where a prompt without a group is seen
        ),
    },
    "areal.infra.scheduler.slurm": {"SlurmScheduler": ("__init__",)},
    "areal.infra.utils.slurm": {"STATUS_MAPPING": ()},
    "areal.infra.remote_inf_engine": {
        "RemoteInfEngine": (
            "__init__", "initialize", "prepare_batch", "agenerate", "update_weights_from_disk", "pause", "resume",
            "pause_generation", "continue_generation", "onload", "offload", "submit", "wait", "workflow_executor",
            "get_version",
            "addresses", "backend",
            "check_health", "launch_server",
            "_run_request_on_all_servers",  # every request that must survive a restart goes through it
        ),
    },
    "areal.infra.workflow_executor": {
        "WorkflowExecutor": (
            "dispatcher", "runner", "staleness_manager", "data_generator",
            "is_paused",  # asked by `agenerate` alone
        ),
        "BatchTaskDispatcher": (
            "submit_task_input", "resume",
            "_active_task_ids",  # their number is that of the prompts under way
        ),
    },
    "areal.infra.async_task_runner": {"AsyncTaskRunner": ("poll_sleep_time", "poll_wait_time")},
    "areal.infra.staleness_manager": {
        "StalenessManager": (
            "on_version_recovered", "on_rollout_accepted", "on_rollout_rejected", "lock", "rollout_stat",
            "consumer_batch_size",
        ),
    },
    "areal.engine.sglang_remote": {
        "SGLangBackend": (
            "build_generation_request", "parse_generation_response", "build_disk_weight_update_requests",
        ),
        "HttpRequest": ("__init__",),
        "HttpGenerationResult": ("__init__",),
        "WeightUpdateRequests": ("__init__",),
    },
    "areal.engine.vllm_remote": {
        "VLLMBackend": (
            "build_generation_request", "parse_generation_response", "build_disk_weight_update_requests",
        ),
    },
    "areal.utils.saver": {
        "Saver": ("save", "is_async", "maybe_wait_for_staging", "finalize", "freq_ctl", "ft_spec", "state_dict"),
    },
    "areal.utils.recover": {
        "RecoverHandler": ("dump", "load", "freq_ctl"),
        "RecoverInfo": ("__init__",),
    },
    "areal.utils.stats_logger": {
        "StatsLogger": ("commit", "close", "print_stats", "state_dict", "load_state_dict", "ft_spec"),
    },
    "areal.utils.evaluator": {"Evaluator": ("evaluate", "freq_ctl", "state_dict", "load_state_dict")},
    "areal.utils.data": {
        "MicroBatchList": ("__init__",), "allocate_balanced_mbs": (), "tensor_container_to": (),
    },
    "areal.api.cli_args": {
        "MicroBatchSpec": ("new", "max_tokens_per_mb"),
        "PPOActorConfig": ("should_compute_prox_logp", "prox_logp_method", "use_decoupled_loss", "ppo_n_minibatches"),
    },
    "areal.utils.seeding": {"set_random_seed": ()},
    "areal.utils.stats_tracker": {"get": (), "record_timing": (), "export_all": ()},
    "areal.utils.name_resolve": {"add": (), "reconfigure": ()},
    "areal.utils.names": {"update_weights_from_disk": ()},
    "areal.infra.workflow_context": {"get": (), "stat_scope": ()},
    "areal.infra.launcher.local": {
        "LocalLauncher": ("log_path_of",), "wait_llm_server_addrs": (), "local_main": (),
    },
}  # fmt: skip


def touched() -> dict[str, tuple[str, str, str]]:
    """{dotted name: (module, name in it, member or "")} of everything we touch."""
    found = {}
    for module, names in TOUCHED.items():
        for name, members in names.items():
            found[f"{module}.{name}"] = (module, name, "")
            found |= {f"{module}.{name}.{member}": (module, name, member) for member in members}
    return found


def signature(module: str, name: str, member: str) -> str | None:
    """The signature in the installed AReaL, the kind of a thing that has no signature, or None for no such name."""
    try:
        found = getattr(import_module(module), name)
    except (ImportError, AttributeError):
        return None
    if member:
        owner = found
        found = inspect.getattr_static(owner, member, None)
        if found is None:
            return ATTRIBUTE if any(_sets(base, member) for base in inspect.getmro(owner)) else None
    if isinstance(found, (classmethod, staticmethod)):
        found = found.__func__
    if inspect.isfunction(found):  # without annotations, which Python versions write differently
        parameters = [one.replace(annotation=one.empty) for one in inspect.signature(found).parameters.values()]
        return str(inspect.Signature(parameters))
    return type(found).__name__


def _sets(owner: type, member: str) -> bool:
    """Whether the class's source gives instances this attribute."""
    pattern = rf"\bself\.{member}\b(?:\s*:[^=\n]+|(?:,\s*self\.\w+)+)?\s*=[^=]|^    {member}\s*:"
    return re.search(pattern, _source(owner), re.MULTILINE) is not None


@cache
def _source(owner: type) -> str:
    try:
        return inspect.getsource(owner)
    except (OSError, TypeError):  # built in
        return ""


def installed() -> dict[str, str | None]:
    """{dotted name: signature} of everything we touch, as the installed AReaL has it."""
    return {dotted: signature(*place) for dotted, place in touched().items()}


def broken() -> str | None:
    """Why this code does not work with the installed AReaL; None when it does. Imports AReaL."""
    expected, found = json.loads(FILE.read_text(encoding="utf-8")), installed()
    lacks = [name for name, was in expected.items() if found.get(name) is None and was is not None]
    changed = [name for name, was in expected.items() if name not in lacks and found.get(name) != was]
    if not lacks and not changed:
        return None
    said = f"lacks {', '.join(lacks)}" if lacks else f"has another signature of {', '.join(changed)}"
    return (
        f"This AReaL says {version('areal')} and {said}: install the wheel of PyPI that this project is written for "
        "(./run does, or pip install areal==1.0.4); a checkout of that version is not the same."
    )


def refuse_another_areal() -> None:
    """End the process with the reason of `broken`, if there is one."""
    if reason := broken():
        sys.exit(reason)


if __name__ == "__main__":
    write_atomically(FILE, json.dumps(installed(), indent=0, sort_keys=True) + "\n")
    print(f"wrote {FILE}")
