"""The wheel, in an environment that holds it and the dependencies; and the editable install, which copies nothing.

The dependencies are the running environment's, laid beside the project by a .pth file, so nothing is downloaded.
"""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml

from areal_gsm8k import __version__
from areal_gsm8k.config import recipes
from areal_gsm8k.paths import PACKAGE, PROJECT

pytest.importorskip("hatchling", reason="hatchling is not installed")
pytest.importorskip("pip", reason="pip is not installed")

SHIM = "areal/launcher/local.py"
PROGRAMS = ("train_grpo.py", "train_hf_trainer.py", "train_local_simple.py")
CONFIGURATION = [PROJECT / "train_grpo.yaml", *sorted((PROJECT / "configs").rglob("*.*"))]


class Environment:
    """A virtual environment with the dependencies and without the project."""

    def __init__(self, root: Path):
        venv.create(root)
        base = {"base": str(root), "platbase": str(root)}
        self.packages = Path(sysconfig.get_path("purelib", "venv", base))
        self.programs = Path(sysconfig.get_path("scripts", "venv", base))
        # A path in a .pth file: the .pth files in there, an editable project's among them, are not read.
        (self.packages / "dependencies.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
        if areal := find_spec("areal"):  # a package is in one place: without its launcher/, the wheel's comes there
            (self.packages / "areal").mkdir()
            for entry in Path(next(iter(areal.submodule_search_locations))).iterdir():
                if entry.name != "launcher":
                    (self.packages / "areal" / entry.name).symlink_to(entry)

    def run(self, program: str, *words: object, cwd: Path) -> str:
        """Run one of the environment's programs without a GPU, with its output and errors as the result."""
        without = {"PYTHONPATH", "HF_HUB_OFFLINE"}
        settings = {name: value for name, value in os.environ.items() if name not in without}
        settings |= {"CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1", "COLUMNS": "200"}
        command = [str(self.programs / program), *map(str, words)]
        done = subprocess.run(command, cwd=cwd, env=settings, capture_output=True, text=True, timeout=100)
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout + done.stderr

    def install(self, *what: object, cwd: Path) -> None:
        pip = [sys.executable, "-m", "pip", "--python", str(self.programs / "python")]
        offline = ["--no-index", "--no-deps", "--no-build-isolation", "--disable-pip-version-check"]
        subprocess.run([*pip, "install", *offline, *map(str, what)], cwd=cwd, check=True, capture_output=True)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel"]
    subprocess.run(
        [*pip, "--no-index", "--no-deps", "--no-build-isolation", "-w", str(folder), str(PROJECT)],
        check=True, capture_output=True,
    )  # fmt: skip
    (file,) = folder.glob("*.whl")
    return file


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    environment = Environment(tmp_path_factory.mktemp("installed"))
    environment.install(wheel, cwd=wheel.parent)
    return environment


def test_what_the_wheel_holds(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        assert archive.read(SHIM).decode() == (PACKAGE / "cli" / "launcher_shim.py").read_text()
        for file in [*CONFIGURATION, *(PROJECT / name for name in PROGRAMS)]:
            inside = f"areal_gsm8k/project/{file.relative_to(PROJECT).as_posix()}"
            assert archive.read(inside).decode() == file.read_text(encoding="utf-8")
    ours = {f"areal_gsm8k/{file.relative_to(PACKAGE).as_posix()}" for file in PACKAGE.rglob("*") if file.is_file()}
    elsewhere = {"areal_gsm8k/cli/launcher_shim.py"}
    assert {name for name in ours if "__pycache__" not in name} - names == elsewhere
    assert {"areal_gsm8k/py.typed", "areal_gsm8k/config/areal_schema.json", "areal_gsm8k/report/page/page.js"} <= names
    tops = {name.partition("/")[0] for name in names}
    assert tops == {"areal", "areal_gsm8k", "math_parser.py", f"areal_gsm8k-{__version__}.dist-info"}
    assert [name for name in names if name.startswith("areal/")] == [SHIM]


def test_it_is_the_wheels_own_code_that_runs(installed, tmp_path):
    program = "import areal_gsm8k.paths as p, math_parser as m; print(p.PROJECT, m.__file__, sep='\\n')"
    found = installed.run("python", "-c", program, cwd=tmp_path).splitlines()
    assert found == [str(installed.packages / "areal_gsm8k" / "project"), str(installed.packages / "math_parser.py")]
    assert installed.run("gsm8k", "--version", cwd=tmp_path) == f"areal-gsm8k {__version__}\n"


def test_recipes_and_plan_from_the_wheel(installed, tmp_path):
    listed = installed.run("gsm8k", "recipes", cwd=tmp_path)
    assert all(recipe.title in listed for recipe in recipes.all_recipes())
    planned = installed.run("gsm8k", "plan", "--gpu", "24", cwd=tmp_path)
    assert "Qwen/Qwen2.5-0.5B-Instruct" in planned and "GiB: fits" in planned


LAUNCHER = ("-m", "areal.launcher.local", "train_grpo.py")


@pytest.mark.parametrize(
    "command",
    [
        pytest.param(("gsm8k", "train"), id="gsm8k"),
        pytest.param(("gsm8k", "train", "--config", "configs/cpu.yaml"), id="as-in-a-checkout"),
        pytest.param(
            ("python", *LAUNCHER, "--config", "train_grpo.yaml", "--config", "cpu"),
            id="areals-old-launcher",
            marks=pytest.mark.slow,  # python -m areal... imports AReaL first
        ),
        pytest.param(("python", "{project}/train_grpo.py", "--config", "cpu"), id="script"),
    ],
)
def test_a_dry_run_from_the_wheel(installed, tmp_path, command):
    program, *words = (word.format(project=installed.packages / "areal_gsm8k" / "project") for word in command)
    said = installed.run(program, *words, "trial_name=t", "seed=7", "--dry-run", cwd=tmp_path)
    file = Path("runs", "tiny-grpo", "t.dry-run.yaml")
    assert f"Resolved configuration written to {file}" in said
    resolved = yaml.safe_load((tmp_path / file).read_text())
    assert resolved["allocation_mode"].startswith("embedded") and resolved["seed"] == 7


@pytest.mark.parametrize("program", ["train_local_simple.py", "train_hf_trainer.py"])
def test_the_baselines_of_sidebyside_start_from_the_wheel(installed, tmp_path, program):
    script = installed.packages / "areal_gsm8k" / "project" / program
    assert "--output-dir" in installed.run("python", script, "--help", cwd=tmp_path)


def early_layer() -> list[str]:
    """What docker/Dockerfile.cpu copies before it sets the environment up, which installs the project as editable."""
    before = (PROJECT / "docker" / "Dockerfile.cpu").read_text().split("RUN ./run")[0]
    return [name for names in re.findall(r"^COPY --chown=\S+ (.+) \S+$", before, re.M) for name in names.split()]


def test_an_editable_install_copies_nothing_and_needs_little(tmp_path):
    checkout, elsewhere = tmp_path / "checkout", tmp_path / "elsewhere"
    elsewhere.mkdir()
    for name in early_layer():
        (checkout / name).parent.mkdir(parents=True, exist_ok=True)
        copy = shutil.copytree if (PROJECT / name).is_dir() else shutil.copy
        copy(PROJECT / name, checkout / name)
    environment = Environment(tmp_path / "venv")
    there = set(environment.packages.rglob("*"))
    environment.install("-e", checkout, cwd=elsewhere)
    new = {file.relative_to(environment.packages).as_posix() for file in set(environment.packages.rglob("*")) - there}
    info = f"areal_gsm8k-{__version__}.dist-info"
    assert {name for name in new if not name.startswith(info) and "__pycache__" not in name} == {
        "_areal_gsm8k.pth", "areal/launcher", SHIM,
    }  # fmt: skip

    # the rest of the checkout, and a change in it
    shutil.copytree(PACKAGE, checkout / "areal_gsm8k", dirs_exist_ok=True)
    shutil.copytree(PROJECT / "configs", checkout / "configs")
    for name in ("train_grpo.yaml", "train_grpo.py"):
        shutil.copy(PROJECT / name, checkout)
    (checkout / "configs" / "algorithms" / "mine.yaml").write_text("# Written a moment ago.\nseed: 11\n")
    assert "Written a moment ago." in environment.run("gsm8k", "recipes", cwd=elsewhere)
    words = ("--config", "cpu", "--config", "algorithms/mine.yaml", f"runs_dir={tmp_path}", "trial_name=t")
    environment.run("gsm8k", "train", "--dry-run", *words, cwd=elsewhere)
    assert yaml.safe_load((tmp_path / "tiny-grpo" / "t.dry-run.yaml").read_text())["seed"] == 11
