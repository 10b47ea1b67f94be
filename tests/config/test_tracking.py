"""W&B and TensorBoard, as configured. What they hold of a run is in tests/launch/test_tracked_run.py."""

import os

import pytest
from runner import train

from areal_gsm8k.config.compose import make_plan, mask_secrets
from areal_gsm8k.config.schema import ConfigError
from areal_gsm8k.paths import CPU_OVERLAY


@pytest.fixture
def no_wandb_login(tmp_path, monkeypatch):
    """An account that has never logged in to W&B."""
    for name in [name for name in os.environ if name.startswith("WANDB_") or name == "NETRC"]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))


def test_online_without_a_key_does_not_start(tmp_path, no_wandb_login):
    pytest.importorskip("wandb", reason="wandb comes with areal, which is not installed")
    runs = tmp_path / "runs"
    done = train(f"runs_dir={runs}", "stats_logger.wandb.mode=online", timeout=90, cold=True)
    assert done.returncode == 2, done.stdout
    for said in ("Cannot start", "stats_logger.wandb.mode=online", "No API key configured", "WANDB_API_KEY"):
        assert said in done.stdout
    assert not runs.exists()


def test_online_with_a_key_wandb_cannot_take_does_not_start(no_wandb_login):
    pytest.importorskip("wandb", reason="wandb comes with areal, which is not installed")
    with pytest.raises(ConfigError) as error:
        make_plan([CPU_OVERLAY], ["stats_logger.wandb.mode=online", "stats_logger.wandb.wandb_api_key=short-1"], 0)
    assert "no login to W&B" in str(error.value) and "40+ characters" in str(error.value)
    assert "short-1" not in str(error.value)


def test_the_mode_reaches_the_children_and_only_when_tracking_is_on():
    def environment(mode: str) -> dict:
        return make_plan([CPU_OVERLAY], [f"stats_logger.wandb.mode={mode}"], 0).environment

    assert environment("disabled") == {}
    assert environment("offline") == {"WANDB_MODE": "offline"}
    with pytest.raises(ConfigError, match="online, offline, disabled"):
        environment("of-line")


def test_tensorboard_is_off_unless_asked_for(tmp_path):
    def path(*overrides: str):
        made = make_plan([CPU_OVERLAY], [f"runs_dir={tmp_path}", "trial_name=t", *overrides], 0)
        return made.get("stats_logger.tensorboard.path")

    assert path() is None
    assert path("stats_logger.tensorboard.path=auto") == str(tmp_path / "tiny-grpo" / "t" / "tensorboard")
    assert path("stats_logger.tensorboard.path=elsewhere") == "elsewhere"


def test_a_section_with_a_secret_inside_is_masked():
    typed = ["stats_logger={wandb: {wandb_api_key: x}}", "stats_logger.wandb={mode: offline}", "seed=1"]
    assert mask_secrets(typed) == ["stats_logger=***", *typed[1:]]
