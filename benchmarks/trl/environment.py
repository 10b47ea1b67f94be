"""TRL's own environment, .venv.trl: made from requirements/trl-cpu.txt on first use, and anew when that file changes.

    python = environment.python()

It is apart from .venv because TRL and AReaL ask for different packages. Installed as ./run installs: by uv, without
resolving anything, torch as its CPU build where one can be had.
"""

import importlib.util
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from areal_gsm8k.paths import PROJECT
from areal_gsm8k.runs.files import write_atomically

FOLDER = PROJECT / ".venv.trl"
LOCK = PROJECT / "requirements" / "trl-cpu.txt"
CUDA_LIBRARIES = PROJECT / "requirements" / "cuda-libraries.txt"
PIP_SETTINGS = PROJECT / "requirements" / "pip_settings.py"
STAMP = (
    FOLDER / ".areal-gsm8k"
)  # the lock that is installed; written last, so an interrupted installation is done again
LOG = FOLDER / "set-up.log"


def is_there() -> bool:
    return STAMP.exists() and STAMP.read_text() == LOCK.read_text()


def python() -> Path:
    """The environment's Python. Exits with one sentence when the environment cannot be made."""
    found = FOLDER / "bin" / "python"
    if not is_there():
        print(f"Setting up {FOLDER.name}: about 1 GB, a minute or two, only when {LOCK.name} changes.", flush=True)
        shutil.rmtree(FOLDER, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(FOLDER)], check=True)
        settings = os.environ | _pip_settings()
        if sys.platform == "linux":
            _install_cpu_torch(found, settings)
        _install(found, settings, "-r", str(LOCK)) or _fail("TRL's set")
        write_atomically(STAMP, LOCK.read_text())
    return found


def _pip_settings() -> dict[str, str]:
    """pip's find-links, index, proxy and certificate as uv's variables, by requirements/pip_settings.py."""
    spec = importlib.util.spec_from_file_location("pip_settings", PIP_SETTINGS)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    listed = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=False
    )
    lines = module.exports(module.settings(listed.stdout), dict(os.environ))
    return dict(shlex.split(line)[1].split("=", 1) for line in lines)


def _install_cpu_torch(found: Path, settings: dict[str, str]) -> None:
    """As in ./run: from pip's find-links, or torch's own index; else PyPI's CUDA build with its libraries."""
    torch = next(line for line in LOCK.read_text().splitlines() if line.startswith("torch=="))
    if settings.get("UV_FIND_LINKS") and _install(found, settings, "--no-index", f"{torch}+cpu"):
        return
    if _install(found, settings | {"UV_HTTP_RETRIES": "1"}, "--torch-backend=cpu", torch):
        return
    print("No CPU build of torch can be reached: installing PyPI's CUDA build, 3 GB more.", flush=True)
    _install(found, settings, "-r", str(CUDA_LIBRARIES)) or _fail("torch")


def _install(found: Path, settings: dict[str, str], *what: str) -> bool:
    uv = Path(sys.executable).with_name("uv")
    command = [str(uv), "pip", "install", "--python", str(found), "--no-deps", *what]
    with LOG.open("a") as log:
        log.write(f"+ {shlex.join(command)}\n")
        log.flush()
        return subprocess.run(command, env=settings, stdout=log, stderr=log, check=False).returncode == 0


def _fail(what: str) -> None:
    sys.exit(f"{what} could not be installed into {FOLDER}: see {LOG}; mend the cause, then run this again.")
