"""The ways a run is started besides `./run train`; all end in the same launcher."""

import importlib.util
import subprocess
import sys
import zipfile

import pytest

from areal_gsm8k.paths import PROJECT
from areal_gsm8k.runs.run import Run

pytest.importorskip("areal", reason="areal is not installed")

SHIM = "areal/launcher/local.py"


def start(*command: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=PROJECT,
        timeout=200,
    )


def installed() -> bool:
    try:
        return importlib.util.find_spec("areal.launcher.local") is not None
    except ModuleNotFoundError:
        return False


needs_shim = pytest.mark.skipif(not installed(), reason="the project itself is not installed here, only its sources")


def two_steps(folder, model) -> list[str]:
    return [
        "--config", "configs/cpu.yaml", f"runs_dir={folder}", "experiment_name=forms", "trial_name=t",
        f"actor.path={model}", "stats_logger.wandb.mode=disabled", "total_train_steps=2", "data.dev_rows=16",
    ]  # fmt: skip


def test_the_script_itself_is_the_launcher(tmp_path, start_model):
    done = start("train_grpo.py", "--dry-run", *two_steps(tmp_path, start_model))
    assert done.returncode == 0, done.stdout
    assert (tmp_path / "forms" / "t.dry-run.yaml").exists()


@needs_shim
def test_areals_old_launcher_name(tmp_path, start_model):
    done = start(
        "-m", "areal.launcher.local", "train_grpo.py", "--config", "train_grpo.yaml", *two_steps(tmp_path, start_model)
    )
    assert done.returncode == 0, done.stdout
    run = Run(tmp_path / "forms" / "t")
    summary = run.read_summary()
    assert summary["steps"] == 2
    assert f"Report: {run.report} " in done.stdout and run.report.is_file() and run.read_environment()["packages"]
    assert summary["command"].startswith("python -m areal.launcher.local train_grpo.py --config train_grpo.yaml")


@needs_shim
def test_the_old_name_starts_no_other_script():
    done = start("-m", "areal.launcher.local", "other.py", "--config", "x.yaml")
    assert done.returncode == 1 and "areal.infra.launcher.local" in done.stdout


def test_a_wheel_carries_the_shim(tmp_path):
    pytest.importorskip("hatchling", reason="hatchling is not installed")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)],
        cwd=PROJECT, check=True, capture_output=True,
    )  # fmt: skip
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        assert archive.read(SHIM).decode() == (PROJECT / "areal_gsm8k" / "cli" / "launcher_shim.py").read_text()
        names = archive.namelist()
    assert "math_parser.py" in names and "areal_gsm8k/loop/areal_schema.json" in names
    assert {f"areal_gsm8k/report/page/{file}" for file in ("page.html", "style.css", "page.js")} <= set(names)
    assert [name for name in names if name.startswith("areal/")] == [SHIM]
