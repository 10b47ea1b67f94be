import json
import platform

import pytest

from areal_gsm8k import __version__
from areal_gsm8k.runs import environment
from areal_gsm8k.runs.run import Run


def test_this_machine_is_described(tmp_path):
    run = Run(tmp_path / "run")
    assert run.read_environment() is None
    environment.record(run)
    found = run.read_environment()
    assert found["python"] == platform.python_version() and found["cpu_count"] >= 1 and found["memory_gib"] > 0
    assert found["packages"]["numpy"][0].isdigit() and isinstance(found["gpus"], list)
    assert found == json.loads(json.dumps(environment.describe()))


def test_what_cannot_be_found_out_is_null(monkeypatch, nvidia_smi):
    nvidia_smi(status=9)
    monkeypatch.setattr(environment, "_answer", lambda *command: None)
    monkeypatch.setattr(environment, "PACKAGES", ("no-such-package",))
    found = environment.describe()
    assert (found["git_commit"], found["git_changed"], found["gpus"]) == (None, None, [])
    assert found["packages"] == {"areal-gsm8k": __version__}


@pytest.mark.parametrize(("inside", "commit", "changed"), [(".", "abc", True), ("site-packages", None, None)])
def test_the_commit_is_the_projects_own(tmp_path, monkeypatch, inside, commit, changed):
    """Installed somewhere inside another repository, that one's commit would say nothing."""
    said = {"--show-toplevel": str(tmp_path), "HEAD": "abc", "--untracked-files=no": " M file"}
    monkeypatch.setattr(environment, "PROJECT", tmp_path / inside)
    monkeypatch.setattr(environment, "_answer", lambda *command: said.get(command[-1]))
    found = environment.describe()
    assert (found["git_commit"], found["git_changed"]) == (commit, changed)


def test_gpus_are_named(nvidia_smi):
    nvidia_smi({}, {})
    assert environment.describe()["gpus"] == ["NVIDIA H100, 81559 MiB"] * 2
