"""`./run` sets the environment up, or says in one sentence why it cannot.

Each test runs a copy of the script with a PATH of its own: real coreutils, and fakes of python, uv, nvidia-smi and
uname that note how they were called. Nothing is installed and no network is used.
"""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# every program that `run` calls
TOOLS = """
awk bash cat chmod cksum cp cut dirname env flock grep head mkdir mv rm sed sleep tail tee tr
"""
NO_NETWORK = "echo 'cause: dns error: failed to lookup address information: Name or service not known'; exit 2"

# Answers what run asks of a Python; `-m venv` copies the fakes into place.
FAKE_PYTHON = """#!/bin/bash
echo "python $*" >>"$CALLS"
case "$*" in
*version_info*) echo "${FAKE_VERSION:-3.11} $0" ;;
*ensurepip*) exit ${FAKE_NO_VENV:-0} ;;
-V) echo "Python ${FAKE_VERSION:-3.11}.7" ;;
"-m venv "*) sleep ${FAKE_SLOW:-0}; mkdir -p "$3/bin"; cp "$FAKES"/{python,uv,gsm8k,ruff,basedpyright} "$3/bin" ;;
"-m pip install "*) eval "${FAKE_PIP:-}" ;;
*pip_settings*) [ -z "${FAKE_LINKS:-}" ] || echo "export UV_FIND_LINKS='$FAKE_LINKS'" ;;
esac
"""
FAKE_UV = """#!/bin/bash
echo "uv $*" >>"$CALLS"
case "$*" in
*--no-index*) exit ${FAKE_NO_WHEEL:-0} ;;
*--dry-run*) eval "${FAKE_BACKEND:-}" ;;
*/cpu.txt | */gpu.txt) echo "Downloading torch (180.0MiB)"; eval "${FAKE_UV:-}" ;;
esac
"""
FAKE_PROGRAM = """#!/bin/bash
printf '%s' "${0##*/}" >>"$CALLS"; printf ' [%s]' "$@" >>"$CALLS"; echo >>"$CALLS"
"""


class Clone:
    """A copy of what `run` needs, and the fakes it meets."""

    def __init__(self, root: Path):
        self.root, self.bin, self.fakes, self.calls = root / "a clone", root / "bin", root / "fakes", root / "calls"
        for folder in (self.root, self.bin, self.fakes):
            folder.mkdir()
        shutil.copy(ROOT / "run", self.root)
        shutil.copytree(ROOT / "requirements", self.root / "requirements")
        for tool in TOOLS.split():
            if found := shutil.which(tool):
                (self.bin / tool).symlink_to(found)
        fakes = {
            "python": FAKE_PYTHON,
            "uv": FAKE_UV,
            "gsm8k": FAKE_PROGRAM,
            "ruff": FAKE_PROGRAM,
            "basedpyright": FAKE_PROGRAM,
        }
        for name, text in fakes.items():
            self.program(self.fakes, name, text)
        self.program(self.bin, "python3", FAKE_PYTHON)
        self.program(self.bin, "uname", '#!/bin/bash\n[ "$1" = -s ] && echo Linux || echo Linux x86_64\n')

    @staticmethod
    def program(folder: Path, name: str, text: str) -> None:
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)

    def start(self, *words: str, **settings: str) -> subprocess.Popen:
        environment = {
            "PATH": str(self.bin),
            "HOME": str(self.root),
            "CALLS": str(self.calls),
            "FAKES": str(self.fakes),
        }
        command = [str(self.root / "run"), *words]
        return subprocess.Popen(
            command,
            env=environment | settings,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *words: str, **settings: str) -> tuple[int, str]:
        """Exit status and standard error; forgets earlier calls."""
        self.calls.write_text("")
        process = self.start(*(words or ["gsm8k"]), **settings)
        errors = process.communicate(timeout=30)[1]
        return process.returncode, errors

    def called(self, pattern: str) -> list[str]:
        return [line for line in self.calls.read_text().splitlines() if re.search(pattern, line)]


@pytest.fixture
def clone(tmp_path):
    return Clone(tmp_path)


def sentence(errors: str) -> str:
    """The one line that says what is wrong."""
    assert "Traceback" not in errors
    lines = [line for line in errors.splitlines() if line.startswith("run: ")]
    assert len(lines) == 1, errors
    return lines[0]


def test_no_python(clone):
    (clone.bin / "python3").unlink()
    status, errors = clone.run()
    assert status == 1
    assert "no Python 3.11 or 3.12 found" in sentence(errors)
    assert not (clone.root / ".venv").exists()


def test_an_unfit_python_is_named(clone):
    status, errors = clone.run(FAKE_VERSION="3.13")
    assert status == 1
    assert "python3 is Python 3.13" in sentence(errors)


def test_a_failing_shim_is_passed_over(clone):
    clone.program(clone.bin, "python3", "#!/bin/bash\necho 'pyenv: python3: command not found' >&2; exit 127\n")
    clone.program(clone.bin, "python3.12", FAKE_PYTHON)
    status, errors = clone.run(FAKE_VERSION="3.12")
    assert status == 0, errors
    assert "Python 3.12.7" in errors


def test_a_named_python_is_the_only_one_tried(clone):
    status, errors = clone.run(PYTHON="/nowhere/python3.11")
    assert status == 1
    assert "/nowhere/python3.11" in sentence(errors)


def test_no_venv_module(clone):
    status, errors = clone.run(FAKE_NO_VENV="1")
    assert status == 1
    assert "has no venv module" in sentence(errors)
    assert "sudo apt install python3.11-venv" in errors


def test_no_network_for_uv(clone):
    status, errors = clone.run(FAKE_PIP="echo 'ERROR: Failed to establish a new connection: [Errno -2]'; exit 1")
    assert status == 1
    assert "no network: uv could not be downloaded" in sentence(errors)


def test_no_network_for_the_set(clone):
    status, errors = clone.run(FAKE_UV=NO_NETWORK)
    assert status == 1
    assert "no network: the cpu set could not be downloaded" in sentence(errors)


def test_another_failure_is_quoted_and_not_called_the_network(clone):
    # the first try, torch's own index, finds no network; what failed in the end is the disk
    status, errors = clone.run(
        FAKE_BACKEND=NO_NETWORK, FAKE_UV="echo 'error: No space left on device (os error 28)'; exit 2"
    )
    assert status == 1
    assert "No space left on device" in sentence(errors)
    assert "no network" not in errors


def test_set_up_once_then_hand_over(clone):
    status, errors = clone.run("train", "a=b c")
    assert status == 0, errors
    assert clone.called("^uv .*--no-deps -r .*requirements/cpu.txt")
    assert clone.called(r"^gsm8k \[train\] \[a=b c\]$")
    status, errors = clone.run("python", "-V")
    assert (status, errors) == (0, "")
    assert not clone.called("^uv|-m venv")


@pytest.mark.parametrize("change", ["requirements", "interrupted", "python"])
def test_stale_environments_are_made_anew(clone, change):
    assert clone.run()[0] == 0
    if change == "requirements":
        with (clone.root / "requirements" / "cpu.txt").open("a") as lock:
            lock.write("one-more==1.0\n")
    if change == "interrupted":
        (clone.root / ".venv" / ".areal-gsm8k").write_text("unfinished\n")
    (clone.root / ".venv" / "left over").touch()
    status, errors = clone.run(**({"FAKE_VERSION": "3.12", "PYTHON": "python3"} if change == "python" else {}))
    assert status == 0, errors
    assert clone.called("-m venv")
    assert not (clone.root / ".venv" / "left over").exists()


def test_a_failed_installation_is_done_again(clone):
    assert clone.run(FAKE_UV=NO_NETWORK)[0] == 1
    assert clone.run()[0] == 0
    assert clone.called("-m venv")


def test_someone_elses_environment_is_left_alone(clone):
    (clone.root / ".venv").mkdir()
    status, errors = clone.run()
    assert status == 1
    assert "was not made by this script" in sentence(errors)


def test_an_environment_of_ones_own_is_used_as_it_is(clone):
    theirs = clone.root / "image" / "venv"
    shutil.copytree(clone.fakes, theirs / "bin")
    status, errors = clone.run("train", "seed=2", AREAL_GSM8K_VENV=str(theirs), AREAL_GSM8K_DEVICE="gpu")
    assert (status, errors) == (0, "")
    assert clone.called(r"^gsm8k \[train\] \[seed=2\]$")
    assert not clone.called("^uv|-m venv")
    assert not (clone.root / ".venv").exists()
    (theirs / "bin" / "gsm8k").unlink()
    status, errors = clone.run(AREAL_GSM8K_VENV=str(theirs))
    assert status == 1
    assert "was not made by this script" in sentence(errors)


def test_the_environment_may_lie_elsewhere(clone):
    elsewhere = clone.root.parent / "environments" / "cpu"
    elsewhere.parent.mkdir()
    assert clone.run(AREAL_GSM8K_VENV=str(elsewhere))[0] == 0
    assert clone.called("requirements/cpu.txt")
    assert (elsewhere / ".areal-gsm8k").read_text().startswith("set cpu ")
    assert not (clone.root / ".venv").exists()
    assert clone.run(AREAL_GSM8K_VENV=str(elsewhere)) == (0, "")
    assert not clone.called("^uv|-m venv")
    with (clone.root / "requirements" / "cpu.txt").open("a") as lock:
        lock.write("one-more==1.0\n")
    assert clone.run(AREAL_GSM8K_VENV=str(elsewhere))[0] == 0
    assert clone.called("-m venv"), "one that this script made is kept up to date"


@pytest.mark.skipif(not shutil.which("flock"), reason="two at a time are kept apart by flock")
def test_two_at_a_time_install_once(clone):
    both = [clone.start("gsm8k", FAKE_SLOW="0.5") for _ in range(2)]
    errors = [process.communicate(timeout=30)[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], errors
    assert len(clone.called("-m venv")) == 1


def test_the_gpu_set_needs_a_gpu_that_answers(clone):
    clone.program(clone.bin, "nvidia-smi", "#!/bin/bash\necho 'No devices were found'; exit 6\n")
    assert clone.run()[0] == 0
    assert clone.called("requirements/cpu.txt")
    clone.program(clone.bin, "nvidia-smi", "#!/bin/bash\necho 'GPU 0: NVIDIA H100 (UUID: GPU-1)'\n")
    assert clone.run()[0] == 0
    assert clone.called("requirements/gpu.txt")
    assert not clone.called("torch==")
    (clone.bin / "nvidia-smi").unlink()
    assert clone.run()[0] == 0
    assert not clone.called("^uv"), "a machine without a GPU sharing the folder must not replace the GPU set"
    assert clone.run(AREAL_GSM8K_DEVICE="cpu")[0] == 0
    assert clone.called("requirements/cpu.txt")


def test_an_unknown_device_is_an_error(clone):
    status, errors = clone.run(AREAL_GSM8K_DEVICE="tpu")
    assert status == 1
    assert "AREAL_GSM8K_DEVICE is 'tpu'" in sentence(errors)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        pytest.param({"FAKE_LINKS": "/wheels"}, r"--no-index torch==[\d.]+\+cpu$", id="find-links"),
        pytest.param(
            {"FAKE_LINKS": "/wheels", "FAKE_NO_WHEEL": "1"},
            r"deps --torch-backend=cpu torch==[\d.]+$",
            id="other-wheels",
        ),
        pytest.param({}, r"deps --torch-backend=cpu torch==[\d.]+$", id="its-own-index"),
        pytest.param({"FAKE_BACKEND": NO_NETWORK}, r"-r .*requirements/cuda-libraries\.txt$", id="unreachable"),
    ],
)
def test_where_torch_comes_from(clone, settings, expected):
    status, errors = clone.run(**settings)
    assert status == 0, errors
    installs = clone.called("^uv")
    the_set = next(i for i, call in enumerate(installs) if call.endswith("requirements/cpu.txt"))
    assert re.search(expected, installs[the_set - 1]), installs


def test_real_sglang_gets_an_environment_of_its_own(clone):
    assert clone.run("test", "-x")[0] == 0
    assert not (clone.root / ".venv.sglang").exists()
    (clone.root / ".venv" / "untouched").touch()
    status, errors = clone.run("test", "--sglang", "-x")
    assert status == 0, errors
    installs = clone.called("^uv")
    assert all("/.venv.sglang/bin/python" in call for call in installs)
    assert re.search(r"torch==[\d.]+$", installs[-2]), installs
    assert installs[-1].endswith("requirements/sglang-cpu.txt")
    assert (clone.root / ".venv" / "untouched").exists()
    assert clone.called(f"^python -m pytest {TWO_PROCESSES} --sglang -x$")
    assert clone.run("test", "--sglang")[0] == 0
    assert not clone.called("^uv|-m venv")


TWO_PROCESSES = "-n 2 --dist loadfile --no-loadscope-reorder"


@pytest.mark.parametrize(
    ("arguments", "processes"),
    [
        (["--fast"], TWO_PROCESSES),
        (["tests/serve", "-k", "pause"], TWO_PROCESSES),
        (["-n", "4"], ""),
        (["-n0"], ""),
        (["-p", "no:xdist"], ""),
        (["tests/test_setup.py::test_x"], ""),
        (["--pdb"], ""),
    ],
)
def test_tests_run_on_two_processes_unless_told_otherwise(clone, arguments, processes):
    assert clone.run("test", *arguments)[0] == 0
    assert clone.called(f"^{' '.join(['python -m pytest', *processes.split(), *arguments])}$")


def test_continuous_integration_runs_the_tests_from_anywhere(clone, tmp_path):
    (clone.root / ".ci").mkdir()
    shutil.copy(ROOT / ".ci" / "run", clone.root / ".ci")
    environment = {"PATH": str(clone.bin), "CALLS": str(clone.calls), "FAKES": str(clone.fakes), "CI": "true"}
    done = subprocess.run(
        ["bash", clone.root / ".ci" / "run"], cwd=tmp_path, env=environment, stdin=subprocess.DEVNULL, check=False
    )
    assert done.returncode == 0
    assert clone.called(r"^ruff \[check\]") and clone.called(r"^ruff \[format\]") and clone.called("^basedpyright")
    assert clone.called("^python -m pytest -n 2 --dist loadfile --no-loadscope-reorder$")
    assert os.access(ROOT / "run", os.X_OK)
