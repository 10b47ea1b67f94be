"""The changes `gsm8k plan --fit` finds: by name on common cards, in their order, and never more than there is."""

import copy
import functools

import pytest

from areal_gsm8k.config import recipes
from areal_gsm8k.config.compose import make_plan
from areal_gsm8k.config.schema import ConfigError
from areal_gsm8k.machine.nvidia import GIB
from areal_gsm8k.plan.memory import CardMemory, model_config, plan_for
from areal_gsm8k.plan.memory.fit import HEADROOM, Fit, fit, hardware, held_by_others, smallest
from areal_gsm8k.plan.memory.plan import RESERVE, of_all_machines

SHARE, BATCH = "sglang.mem_fraction_static", "actor.mb_spec.max_tokens_per_mb"
BFLOAT16, LORA = "actor.optimizer.type", "actor.use_lora"
TURNS, OFFLOAD = "rollout.scheduling_strategy.type", "actor.fsdp.offload_params"


class Run:
    """A Qwen2.5 model with train_grpo.yaml, on such cards."""

    def __init__(self, size: str, gpus: list[CardMemory], *overrides: str, memory: int = 0):
        self.overrides, self.gpus, self.memory = [f"actor.path=Qwen/Qwen2.5-{size}-Instruct", *overrides], gpus, memory
        self.config = model_config.known()[f"Qwen/Qwen2.5-{size}-Instruct"]
        self.values = self.resolve({})
        self.plan = plan_for(self.values, self.config, gpus, memory)

    def laid_over(self, settings: dict):
        """As `resolve` for keys no other depends on, and many times faster."""
        values = copy.deepcopy(self.values)
        for key, value in settings.items():
            *sections, leaf = key.split(".")
            functools.reduce(lambda section, name: section.setdefault(name, {}), sections, values)[leaf] = value
        return values

    def resolve(self, settings: dict):
        more = [f"{key}={str(value).lower()}" for key, value in settings.items()]
        return make_plan([], [*self.overrides, *more], len(self.gpus)).values

    def fit(self) -> Fit:
        return fit(self.values, self.config, self.gpus, self.laid_over, self.memory)


def names(found: Fit) -> list[str]:
    """The first key of each change."""
    return [next(iter(change.settings)) for change in found.changes]


@pytest.mark.parametrize(
    ("size", "gib", "changed"),
    [
        ("0.5B", 8, [SHARE, LORA]),
        ("0.5B", 12, [SHARE, BATCH, "rollout.max_concurrent_rollouts"]),
        ("0.5B", 16, [SHARE]),
        ("0.5B", 24, []),
        ("1.5B", 8, [BFLOAT16, LORA, TURNS]),
        ("1.5B", 12, [SHARE, BATCH, BFLOAT16, LORA]),
        ("1.5B", 16, [SHARE, LORA]),
    ],
)
def test_the_changes_by_name(size, gib, changed):
    found = Run(size, [CardMemory(gib)]).fit()
    assert found.plan.fits and names(found) == changed
    assert found.plan.fullest.spare >= HEADROOM


def test_what_moves_to_ram_must_fit_there():
    roomy, tight = (Run("1.5B", [CardMemory(8)], memory=gib * GIB).fit() for gib in (64, 6))
    assert TURNS in names(roomy) and roomy.plan.fits and not roomy.plan.host_missing
    assert not {TURNS, OFFLOAD} & set(names(tight)) and not tight.plan.fits


@pytest.mark.parametrize("override", ["actor.fsdp.offload_params=true", "actor.fsdp.per_layer_optim_step=true"])
def test_a_plan_that_needs_more_ram_than_there_is_does_not_fit(override):
    plan = Run("0.5B", [CardMemory(80)], override).plan
    needed = plan.host + RESERVE
    assert plan.host == plan.trainer.host > 2 * GIB and plan.fits  # of a machine elsewhere nothing is known
    for ram, missing in ((needed, 0), (needed - GIB, GIB)):
        here = Run("0.5B", [CardMemory(80)], override, memory=ram).plan
        assert (here.host_missing, here.fits) == (missing, not missing)
    assert f"needs {needed / GIB:.1f} GiB of RAM; this machine has {ram / GIB:.1f}." in here.in_ram


def test_in_turns_the_trainer_waits_in_ram():
    turns = ("enable_offload=true", "sglang.enable_memory_saver=true", f"{TURNS}=colocation")
    plan = Run("0.5B", [CardMemory(24)], *turns, "rollout.scheduling_strategy.target=actor").plan
    assert plan.host == sum(plan.trainer.resident.values()) + plan.trainer.gradients > 6 * GIB


def test_every_trainer_of_a_machine_needs_ram():
    offload = "actor.fsdp.offload_params=true"
    four = Run("0.5B", [CardMemory(24)] * 8, "allocation_mode=sglang.d4+d4", offload).plan
    assert four.host == 4 * four.trainer.host
    nodes = ("allocation_mode=sglang.d8+d8", "cluster.n_nodes=2", "cluster.n_gpus_per_node=8", "scheduler.type=slurm")
    eight = Run("0.5B", [CardMemory(24)] * 16, *nodes, offload).plan
    assert eight.host == 8 * eight.trainer.host


@pytest.mark.parametrize(
    "card", [CardMemory(0.5), CardMemory(24, used=23.5), CardMemory(24, used=30.0), CardMemory(8, used=7.4)]
)
def test_a_share_is_between_0_and_1_however_little_is_free(card):
    run = Run("0.5B", [card])
    found = run.fit()
    assert not found.plan.fits and 0 < found.settings.get(SHARE, 0.5) < 1


def test_other_programs_are_named_as_the_cause():
    run = Run("0.5B", [CardMemory(80, used=70.0)])
    assert held_by_others(run.plan, run.values, run.config, run.gpus, 0) == 70.0
    run = Run("0.5B", [CardMemory(12, used=11.5)])  # needs changes as well
    assert held_by_others(run.plan, run.values, run.config, run.gpus, 0) == 0
    assert "end what holds 11.5 GiB" in hardware(run.values, run.config, run.gpus, run.laid_over)


@pytest.mark.parametrize("set_by_user", [(), ("actor.kl_ctl=1e-8",)])
def test_a_reference_that_only_measures_is_given_up(set_by_user):
    run = Run("0.5B", [CardMemory(13)], "kl_reference=true", *set_by_user)
    assert run.plan.trainer.reference
    found = fit(run.values, run.config, run.gpus, run.resolve)
    assert "kl_reference" in names(found) and found.plan.fits and not found.plan.trainer.reference


def test_a_reference_that_is_rewarded_stays():
    found = Run("0.5B", [CardMemory(13)], "kl_reference=true", "actor.kl_ctl=0.01").fit()
    assert "kl_reference" not in names(found) and found.plan.trainer.reference


@pytest.mark.parametrize(("overlay", "count"), [(None, 1), ("2gpus", 2), ("4gpus", 4), ("8gpus", 8), ("2nodes", 16)])
def test_without_cards_there_are_as_many_as_are_asked_for(overlay, count):
    values = make_plan([recipes.find(overlay)] if overlay else [], [], gpus=16).values
    gpus = smallest(values, model_config.known()["Qwen/Qwen2.5-0.5B-Instruct"])
    assert len(gpus) == count
    plan = plan_for(values, model_config.known()["Qwen/Qwen2.5-0.5B-Instruct"], gpus)
    assert max(len(card.processes) for card in plan.cards) == (2 if count == 1 else 1)
    assert plan.fullest.spare >= HEADROOM


def test_the_cards_of_one_machine_stand_for_those_of_all():
    values = make_plan([recipes.find("2nodes")], [], gpus=8).values
    assert len(of_all_machines([CardMemory(80)] * 8, values)) == 16
    with pytest.raises(ConfigError, match=r"needs 16 GPUs.*--gpus 8x80"):
        of_all_machines([CardMemory(80)] * 4, values)
    assert len(of_all_machines([CardMemory(24)], make_plan([], [], gpus=1).values)) == 1


def test_the_server_gets_what_later_changes_freed():
    found = Run("7B", [CardMemory(80)]).fit()
    assert names(found) == [SHARE, LORA]
    kv, server = found.plan.cards[0].processes[0].parts["keys and values"], found.plan.server
    assert kv >= server.kv_wanted  # room for all sequences at full length


def test_the_bfloat16_optimizer_does_not_step_by_layer():
    settings = Run("1.5B", [CardMemory(8)], "actor.fsdp.per_layer_optim_step=true").fit().settings
    assert settings[BFLOAT16] == "adam_bf16" and settings["actor.fsdp.per_layer_optim_step"] is False
