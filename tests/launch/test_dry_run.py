"""`./run train --dry-run` looks at what can be looked at here without asking anyone."""

import json
from types import SimpleNamespace

import pytest

from areal_gsm8k.launch import readiness, train
from areal_gsm8k.paths import BASE, CPU_OVERLAY, PROJECT
from areal_gsm8k.plan.memory import model_config


@pytest.fixture
def dry_run(tmp_path, monkeypatch):
    """The exit code of a dry run, and whether it wrote the configuration."""

    def run(file, *overrides):
        code = train.train([file], [f"runs_dir={tmp_path}", "trial_name=t", *overrides], dry_run=True)
        return code, bool(list(tmp_path.rglob("t.dry-run.yaml")))

    monkeypatch.setattr(train.signal, "signal", lambda number, handler: None)
    return run


def test_a_model_that_is_not_there(dry_run, capsys):
    assert dry_run(CPU_OVERLAY, "actor.path=/no/such/folder") == (2, False)
    assert "actor.path='/no/such/folder': no config.json there" in capsys.readouterr().out


def test_a_model_that_does_not_fit_the_ram(dry_run, tmp_path, capsys):
    config, _ = model_config.read("Qwen/Qwen2.5-7B-Instruct")
    (tmp_path / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 2000}))
    model = PROJECT / "configs" / "models" / "qwen2.5-7b.yaml"
    assert dry_run(model, f"actor.path={tmp_path}") == (2, False)
    told = " ".join(capsys.readouterr().out.split())
    assert "GiB of RAM; this machine has" in told and "gsm8k plan --fit" in told
    (tmp_path / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 1, "hidden_size": 64}))
    assert dry_run(model, f"actor.path={tmp_path}", "gconfig.max_new_tokens=64")[0] == 0


def test_the_hub_is_not_asked(dry_run, monkeypatch):
    monkeypatch.setattr(readiness.hub, "hub_or_cache", None)
    assert dry_run(CPU_OVERLAY, "actor.path=no-org/no-such-model") == (0, True)


def test_a_part_of_a_gpu(dry_run, monkeypatch, capsys, nvidia_smi):
    nvidia_smi({})
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-x")
    assert dry_run(BASE) == (2, False)
    assert "CUDA_VISIBLE_DEVICES=MIG-x" in capsys.readouterr().out


def test_turns_on_one_card_find_the_cuda_runtime_of_the_environment(tmp_path, monkeypatch):
    """A package of the environment's nvidia folder holds libcudart; where none does, nothing is set."""
    made = SimpleNamespace(get={"enable_offload": True}.get, environment={})
    monkeypatch.setattr(readiness.importlib.util, "find_spec", lambda name: None)
    readiness.find_cuda_runtime(made)
    assert made.environment == {}
    folder = tmp_path / "nvidia" / "cuda_runtime" / "lib"
    folder.mkdir(parents=True)
    (folder / "libcudart.so.12").touch()
    package = SimpleNamespace(submodule_search_locations=[str(tmp_path / "nvidia")])
    monkeypatch.setattr(readiness.importlib.util, "find_spec", lambda name: package)
    for before, after in ((None, str(folder)), ("/opt/lib", f"{folder}:/opt/lib")):
        monkeypatch.delenv("LD_LIBRARY_PATH", raising=False)
        if before:
            monkeypatch.setenv("LD_LIBRARY_PATH", before)
        readiness.find_cuda_runtime(made)
        assert made.environment == {"LD_LIBRARY_PATH": after}
    made = SimpleNamespace(get={}.get, environment={})
    readiness.find_cuda_runtime(made)
    assert made.environment == {}
