"""A run on Modal's GPUs, on AReaL's image with SGLang. In the project's folder, after `pip install modal; modal setup`:

    modal run --detach cluster/modal_train.py --configs "configs/models/qwen2.5-1.5b.yaml configs/scales/2gpus.yaml"
    GPU=H100:1 modal run cluster/modal_train.py --configs configs/scales/80gb.yaml --overrides "seed=2"
    modal volume get areal-gsm8k-runs / runs

GPU names cards as Modal does. A run ends with its function, after HOURS (12) at the latest: recovery points lie on the
volume, and `--resume runs/EXPERIMENT/TRIAL` goes on from the newest.
"""

import os
import subprocess
from pathlib import Path

import modal

PROJECT = Path(__file__).resolve().parents[1]
WORKSPACE = "/workspace"
VENV = "/opt/.venv"  # of AReaL's image
IMAGE = "ghcr.io/areal-project/areal-runtime:v1.0.4-sglang"
GPU = os.environ.get("GPU", "H100:2")
HOURS = float(os.environ.get("HOURS", "12"))
NOT_UPLOADED = [".git", ".venv", ".venv.*", "runs", "data", ".cache", "**/__pycache__", "wandb", "swanlog"]

app = modal.App("areal-gsm8k")
runs = modal.Volume.from_name("areal-gsm8k-runs", create_if_missing=True)
hub_cache = modal.Volume.from_name("areal-gsm8k-hub", create_if_missing=True)
image = (
    # Modal's own part runs in a Python of its own, found before the image's; the run uses the image's.
    modal.Image.from_registry(IMAGE, add_python="3.12", setup_dockerfile_commands=["ENV PATH=/usr/local/bin:$PATH"])
    .add_local_dir(PROJECT, WORKSPACE, copy=True, ignore=NOT_UPLOADED)
    .workdir(WORKSPACE)
    .run_commands(
        f"uv pip install --python {VENV} --no-deps --reinstall-package areal -r docker/additions.txt",
        f"uv pip install --python {VENV} --no-deps --no-build-isolation -e .",
    )
    .env({"AREAL_GSM8K_VENV": VENV, "AREAL_GSM8K_DEVICE": "gpu", "HF_HOME": "/hub"})
)


@app.function(
    image=image,
    gpu=GPU,
    timeout=int(HOURS * 3600),
    volumes={f"{WORKSPACE}/runs": runs, "/hub": hub_cache},
    secrets=[modal.Secret.from_dict({name: os.environ[name] for name in ("HF_TOKEN",) if name in os.environ})],
)
def train(arguments: list[str]) -> int:
    """`./run train` with these arguments, in Modal's container; returns its exit code."""
    # PYTHONPATH leads to Modal's own packages, made for its own Python.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    try:
        return subprocess.run(["./run", "train", *arguments], cwd=WORKSPACE, env=environment, check=False).returncode
    finally:
        runs.commit()


@app.local_entrypoint()
def main(configs: str = "", overrides: str = "", resume: str = "") -> None:
    """Send one run off: overlays and key=value pairs, each separated by blanks, or a run to go on with."""
    arguments = [word for file in configs.split() for word in ("--config", file)]
    arguments += ["--resume", resume] if resume else []
    code = train.remote([*arguments, *overrides.split()])
    if code:
        raise SystemExit(code)
