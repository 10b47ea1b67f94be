"""The ways a run is started besides `./run train`; all end in the same launcher."""

import subprocess
import sys
import zipfile

import pytest
from areal_here import SHIM, needs_areal, needs_shim
from runner import start

from areal_gsm8k.paths import PROJECT

pytestmark = needs_areal


def test_the_script_itself_is_the_launcher(tmp_path, untrained_model):
    settings = [f"runs_dir={tmp_path}", "experiment_name=forms", "trial_name=t", f"actor.path={untrained_model}"]
    command = [sys.executable, "train_grpo.py", "--dry-run", "--config", "configs/cpu.yaml", *settings]
    done = start(command, timeout=60, cold=True)
    assert done.returncode == 0, done.stdout
    assert (tmp_path / "forms" / "t.dry-run.yaml").exists()


@pytest.mark.slow
@needs_shim
def test_the_old_name_starts_no_other_script():
    command = [sys.executable, "-m", "areal.launcher.local", "other.py", "--config", "x.yaml"]
    done = start(command, timeout=60)
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
    assert "math_parser.py" in names and "areal_gsm8k/config/areal_schema.json" in names
    assert {f"areal_gsm8k/report/page/{file}" for file in ("page.html", "style.css", "page.js")} <= set(names)
    assert [name for name in names if name.startswith("areal/")] == [SHIM]
