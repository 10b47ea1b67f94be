"""The locks are sound; the environment holds what we use and nothing that cpu.excludes.txt leaves out."""

import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest

REQUIREMENTS = Path(__file__).parent.parent / "requirements"

# One subprocess imports all of it (about 15 s): AReaL's parts that the trainer, its workers and its launcher load, then
# what our own files import.
IMPORTS = """
from areal import PPOTrainer
from areal.api import InferenceEngine, ModelRequest, ModelResponse, RolloutWorkflow, SaveLoadMeta, WeightUpdateMeta
from areal.api.cli_args import GenerationHyperparameters, GRPOConfig, PPOActorConfig, SGLangConfig, to_structured_cfg
from areal.engine import FSDPPPOActor, RemoteSGLangEngine
from areal.infra import workflow_context
from areal.infra.platforms import current_platform
from areal.infra.rpc import rpc_server, rtensor, serialization
from areal.infra.rpc.guard import data_blueprint, engine_blueprint
from areal.infra.scheduler.local import LocalScheduler
from areal.utils import name_resolve, names, recover, saver, stats_tracker
from areal.utils.dataloader import create_dataloader
from areal.utils.hf_utils import load_hf_tokenizer
from areal.utils.stats_logger import StatsLogger
from areal.workflow.rlvr import RLVRWorkflow
import areal.infra.launcher.local

import accelerate, aiohttp, bokeh.plotting, datasets, huggingface_hub, jinja2, math_verify
import matplotlib.pyplot, numpy, omegaconf, pandas, psutil
import pyarrow.parquet, pydantic, requests, rich, safetensors.torch, scipy.stats, statsmodels.stats.proportion, sympy
import tensorboardX, tokenizers, torch, typer, uvicorn, wandb, yaml
from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen2Config, Qwen2ForCausalLM
"""


def names(path: Path) -> set[str]:
    """The package names of a requirements file, as `name` or `name==version` lines with comments."""
    lines = (line.split("#")[0].strip() for line in path.read_text().splitlines())
    return {re.split(r"[\s=<>;\[]", line)[0].lower().replace("_", "-") for line in lines if line}


def installed(name: str) -> bool:
    try:
        version(name)
    except PackageNotFoundError:
        return False
    return True


def gpu_set() -> bool:
    return installed("sglang")


@pytest.mark.slow
def test_everything_we_use_can_be_imported():
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", IMPORTS], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]


def test_what_was_left_out_is_in_no_lock():
    left_out = names(REQUIREMENTS / "cpu.excludes.txt")
    assert {"torchvision", "torchaudio", "claude-agent-sdk", "litellm"} <= left_out
    assert not left_out & names(REQUIREMENTS / "cpu.txt")
    # what only they needed went with them: the largest of it
    assert not {"polars", "polars-runtime-32", "grpcio", "opencensus", "langsmith", "mcp"} & names(
        REQUIREMENTS / "cpu.txt"
    )


@pytest.mark.skipif(gpu_set(), reason="the GPU set leaves nothing out")
@pytest.mark.parametrize("name", ["torchvision", "torchaudio", "triton"])
def test_the_cuda_builds_companions_are_absent(name):
    assert not installed(name), f"{name} is here; requirements/cpu.excludes.txt says why it must not be"


def test_areal_is_the_locked_version():
    assert version("areal") == "1.0.4"


@pytest.mark.parametrize("name", ["cpu.txt", "gpu.txt", "cuda-libraries.txt", "uv.txt"])
def test_locks_are_plain_lines(name):
    lines = (REQUIREMENTS / name).read_text().splitlines()
    for line in lines:
        assert re.fullmatch(r"[a-z0-9-]+==[0-9][0-9a-z.]*( ; [()a-zA-Z0-9_.'<>=! ]+)?", line), line
    assert len(set(lines)) == len(lines)


def test_the_cuda_libraries_agree_with_the_cpu_set():
    cpu = dict(line.split(" ;")[0].split("==") for line in (REQUIREMENTS / "cpu.txt").read_text().splitlines())
    for line in (REQUIREMENTS / "cuda-libraries.txt").read_text().splitlines():
        name, version = line.split(" ;")[0].split("==")
        assert cpu.get(name, version) == version, line
