"""The installed AReaL is the one we are written for, and one that is not is refused by the name that it lacks."""

import json
from importlib import import_module

import pytest

pytest.importorskip("areal", reason="areal is not installed")

from areal_gsm8k.launch import prewarm
from areal_gsm8k.training import areal_contract
from areal_gsm8k.training.areal_contract import FILE, broken, installed, touched

PRIVATE = [dotted for dotted in touched() if dotted.rsplit(".", 1)[1].startswith("_") and "__init__" not in dotted]


def test_the_contract_is_the_installed_areals():
    expected = json.loads(FILE.read_text())
    assert expected == installed(), "python -m areal_gsm8k.training.areal_contract writes it anew"
    assert all(expected.values()), [name for name, found in expected.items() if not found]


def test_private_names_are_few():
    """Each is a place where AReaL may change without a word; one more needs its reason in TOUCHED."""
    assert len(PRIVATE) <= 20


def remove(monkeypatch, module: str, name: str, member: str) -> None:
    """Take a name out of the AReaL of this process."""
    if not member:
        monkeypatch.delattr(import_module(module), name)
        return
    for base in getattr(import_module(module), name).__mro__[:-1]:
        if member in vars(base):
            monkeypatch.delattr(base, member)
    sets = areal_contract._sets  # noqa: SLF001 - instance attributes are seen in the source, which is not rewritten here
    monkeypatch.setattr(areal_contract, "_sets", lambda owner, one: one != member and sets(owner, one))


@pytest.mark.parametrize("dotted", sorted(touched()))
def test_a_name_that_is_gone_is_named(dotted, monkeypatch):
    remove(monkeypatch, *touched()[dotted])
    said = broken()
    assert dotted in said and "pip install areal==1.0.4" in said


def test_another_signature_is_named(monkeypatch):
    trainer = import_module("areal.trainer.rl_trainer").PPOTrainer
    monkeypatch.setattr(trainer, "_init_rollout", lambda self, config, is_eval: None)
    assert "has another signature of areal.trainer.rl_trainer.PPOTrainer._init_rollout" in broken()


def test_a_trainer_ends_before_anything_is_loaded_and_says_which_name(monkeypatch):
    remove(monkeypatch, "areal.infra.staleness_manager", "StalenessManager", "on_version_recovered")
    monkeypatch.setattr(prewarm, "die_with_parent", lambda take_children: None)
    monkeypatch.setenv("AREAL_SPMD_MODE", "1")
    monkeypatch.setattr("sys.argv", ["prewarm", "train_grpo.py", "--config", "none.yaml"])
    with pytest.raises(SystemExit, match=r"This AReaL says \S+ and lacks .*StalenessManager.on_version_recovered"):
        prewarm.main()


def test_replacements_keep_the_interface_of_what_they_replace():
    """AReaL's loop, recovery and close may call any public method of a collaborator."""
    from areal.utils import evaluator, recover, saver, stats_logger

    from areal_gsm8k.training import dev_evaluator, policy_saver, recovery_points, step_recorder

    static = {name for name in vars(saver.Saver) if name.startswith("get_")} | {"get_log_path", "recover_info_path"}
    for theirs, ours in (
        (saver.Saver, policy_saver.PolicySaver),
        (evaluator.Evaluator, dev_evaluator.DevEvaluator),
        (stats_logger.StatsLogger, step_recorder.StepRecorder),
        (recover.RecoverHandler, recovery_points.RecoveryPoints),
    ):
        public = {name for name in vars(theirs) if not name.startswith("_")} - static - {"init"}
        assert public <= {*dir(ours)}, (ours, public - {*dir(ours)})
