"""Checks the needs of a run besides its configuration, before anything is started: model, reward, GPUs, data.

Each check names the key, what was found and what to do: `./run train actor.path=no/such/model`
"""

import importlib.util
import os
from pathlib import Path
from types import SimpleNamespace

from areal_gsm8k.config import checks, compose, devices
from areal_gsm8k.config.compose import Plan
from areal_gsm8k.config.schema import ConfigError
from areal_gsm8k.data import hub, problems
from areal_gsm8k.grading.custom_reward import RewardError
from areal_gsm8k.grading.parser import grade
from areal_gsm8k.grading.rewards import Reward
from areal_gsm8k.machine import nvidia
from areal_gsm8k.machine.facts import Machine
from areal_gsm8k.machine.nvidia import GIB
from areal_gsm8k.plan.memory import model_config, plan_for
from areal_gsm8k.plan.memory.model_shape import ShapeError
from areal_gsm8k.plan.memory.plan import MemoryPlan


def check_model(plan: Plan, ask_hub: bool = True) -> None:
    """The model must be there before anything is started. Raises ConfigError.

    The hub is asked once for a hub name; when it does not answer, we tell the children to use the local cache only.
    Without `ask_hub` every name that has the form of a hub name passes.
    """
    path = plan.get("actor.path")
    if plan.start_model or (Path(path) / "config.json").exists():
        return
    if Path(path).exists() or not hub.is_hub_id(path):
        raise ConfigError(
            f"actor.path={path!r}: no config.json there. Give a Hugging Face model folder, a hub name such as "
            f"Qwen/Qwen2.5-0.5B-Instruct, or `{compose.TINY}` for the model made from scratch."
        )
    if not ask_hub:
        return
    from transformers import AutoConfig

    try:
        with hub.hub_or_cache(path, "model") as answered:
            AutoConfig.from_pretrained(path)
    except (hub.HubError, OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ConfigError(f"actor.path={path!r}: not on this disk, and the hub does not give it ({reason}).") from None
    if not answered:
        plan.environment["HF_HUB_OFFLINE"] = "1"


def check_memory(plan: Plan, ask_hub: bool = True) -> None:
    """A real model that is trained on the CPU must fit this machine's RAM, by the memory plan. Raises ConfigError.

    Without `ask_hub` a model that is neither a folder nor in our table of well-known ones passes.
    """
    path = plan.get("actor.path")
    if not (ask_hub or Path(path).is_dir() or path in model_config.known()):
        return
    machine = Machine()
    memory = min(machine.memory, machine.memory_limit or machine.memory)
    found = _plan_on_cpu(plan, memory)
    if found and not found.fits:
        needs = found.fullest.total / GIB
        raise ConfigError(
            f"actor.path={path!r} needs {needs:.1f} GiB of RAM; this machine has {memory / GIB:.1f}. Settings with "
            "which it fits, if there are any: `gsm8k plan --fit` with the same arguments; else a smaller model."
        )


def parameters_on_cpu(plan: Plan) -> int:
    """Of a real model that is trained on the CPU; 0 for any other, and where its size cannot be told."""
    found = _plan_on_cpu(plan, 0)
    return found.shape.parameters if found else 0


def _plan_on_cpu(plan: Plan, memory: int) -> MemoryPlan | None:
    if plan.allocation.rollout.backend != "embedded" or plan.start_model or nvidia.ours():
        return None
    try:
        return plan_for(plan.values, model_config.read(plan.get("actor.path"))[0], [], memory)
    except ShapeError:
        return None  # an architecture that the plan does not know


def check_reward(plan: Plan) -> None:
    """The reward must be computable: its bounds fit, and a user's own function loads. Raises ConfigError."""
    settings = SimpleNamespace(**plan.values["reward"])
    try:
        Reward.from_settings(settings, plan.get("gconfig.max_new_tokens")).close()
    except (ValueError, RewardError) as error:
        raise ConfigError(str(error)) from None


def choose_gpus(plan: Plan) -> None:
    """Tell AReaL which GPUs of this machine are ours, where it hands them out. Raises ConfigError."""
    if plan.allocation.rollout.backend == "embedded" or plan.get("scheduler.type") in checks.ELSEWHERE:
        return
    if ours := devices.for_areal():
        plan.environment |= ours
        # AReaL's SGLang server counts ports up from its GPU's number; beyond this value they leave the range.
        highest = max(map(int, ours["CUDA_VISIBLE_DEVICES"].split(",")))
        cluster = plan.values["cluster"]
        cluster["n_gpus_per_node"] = max(cluster["n_gpus_per_node"], highest + 1)


def find_cuda_runtime(plan: Plan) -> None:
    """With `enable_offload`: the folder of libcudart for the dynamic linker, among the environment's own packages.

    torch_memory_saver preloads a library into server and trainer that is linked with libcudart and, other than PyTorch,
    does not look into the packages of the nvidia folder.
    """
    if not plan.get("enable_offload"):
        return
    spec = importlib.util.find_spec("nvidia")
    folders = [Path(folder) for folder in spec.submodule_search_locations or []] if spec else []
    found = sorted({str(file.parent) for folder in folders for file in folder.glob("*/lib/libcudart.so.*")})
    known = os.environ.get("LD_LIBRARY_PATH")
    if found:
        plan.environment["LD_LIBRARY_PATH"] = os.pathsep.join([*found, *([known] if known else [])])


def count_steps(plan: Plan) -> int:
    """Training steps of the run. Reads both data splits, so that a bad file is found before anything is started."""
    train = plan.values["train_dataset"]
    rows = problems.load_problems(train["path"], train["split"], plan.get("data.train_rows"), seed=plan.get("seed"))
    for row in [*rows, *dev_rows(plan)]:
        verdict = grade(row["answer"], row["answer"])
        if verdict.error or not verdict.lenient:
            raise ConfigError(f"row {row['id']}: no completion could be right, its answer is {row['answer'][-80:]!r}.")
    per_epoch = len(rows) // train["batch_size"]
    if per_epoch == 0:
        raise ConfigError(
            f"train_dataset.path={train['path']!r} holds {len(rows)} rows, fewer than one batch of "
            f"train_dataset.batch_size={train['batch_size']}."
        )
    planned = per_epoch * plan.values["total_train_epochs"]
    return min(planned, plan.values["total_train_steps"] or planned)


def dev_rows(plan: Plan) -> list[dict]:
    """The rows of every evaluation."""
    valid = plan.values["valid_dataset"]
    return problems.load_problems(valid["path"], valid["split"], plan.get("data.dev_rows"), seed=plan.get("seed"))
