"""Where metrics go beside metrics.jsonl: Weights & Biases and TensorBoard, both through AReaL's logger.

AReaL's StatsLogger calls `wandb.login()` before it names the mode, inside a trainer and after the start model is made.
So we put the mode into the environment as well, and log in here first, where a failure costs seconds.

    ./run train stats_logger.wandb.mode=offline stats_logger.tensorboard.path=auto
"""

import os
import subprocess
import sys
from pathlib import Path

from areal_gsm8k.config.schema import ConfigError

AUTO = "auto"  # stats_logger.tensorboard.path: the folder tensorboard/ of the run
WANDB_MODES = ("online", "offline", "disabled")
LOGIN_SECONDS = 60  # W&B itself gives up on a server that does not answer after about 20


def prepare(tracking: dict, run_dir: Path, secrets: dict[str, str]) -> dict[str, str]:
    """Complete the section `stats_logger` in place; returns the environment variables that its libraries need.

    `secrets` are the variables that compose.take_secrets took from the configuration. Raises ConfigError for an unknown
    mode, and for `online` when W&B does not accept the login.
    """
    if tracking["tensorboard"]["path"] == AUTO:
        tracking["tensorboard"]["path"] = str((run_dir / "tensorboard").absolute())
    mode = tracking["wandb"]["mode"]
    if mode not in WANDB_MODES:
        raise ConfigError(f"stats_logger.wandb.mode={mode!r}: choose one of {', '.join(WANDB_MODES)}.")
    if mode == "disabled":
        return {}
    environment = {"WANDB_MODE": mode}
    if server := tracking["wandb"].get("wandb_base_url"):
        environment["WANDB_BASE_URL"] = server
    if mode == "online":
        _log_in(os.environ | secrets | environment)
    return environment


def _log_in(environment: dict[str, str]) -> None:
    """Log in to W&B as the trainer will, in a process of its own without a terminal. Raises ConfigError."""
    advice = (
        "Set the environment variable WANDB_API_KEY, run `wandb login` once (it writes ~/.netrc), or choose "
        "stats_logger.wandb.mode=offline and upload later with `wandb sync`."
    )
    try:
        login = subprocess.run(
            [sys.executable, "-c", "import wandb; wandb.login()"],
            check=False,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=LOGIN_SECONDS,
        )
    except subprocess.TimeoutExpired:
        late = f"stats_logger.wandb.mode=online: W&B did not answer in {LOGIN_SECONDS} s. {advice}"
        raise ConfigError(late) from None
    if login.returncode:
        reason = (login.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise ConfigError(f"stats_logger.wandb.mode=online: no login to W&B ({reason}). {advice}")
