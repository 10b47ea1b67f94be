"""What to change so that a plan fits, in the order of what hurts least.

First what changes no number of the run (how much of the card the server takes, how a step is cut up, what is kept and
what recomputed), then what costs time (states or weights in the machine's memory, server and trainer in turns), then
precision, and last what changes the task: fewer or shorter completions, adapters instead of all weights. A change is
kept only when the plan needs it and gets smaller by it: the batch size, for one, is no part of the peak unless all of
a batch fits one micro-batch.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from areal_gsm8k.memory import run_values
from areal_gsm8k.memory.plan import CONTEXT, GPU, MemoryPlan, plan_for
from areal_gsm8k.memory.server import GIB

Settings = dict[str, object]  # dotted keys
Resolve = Callable[[Settings], Mapping | None]  # the configuration with these laid over it; None: it is not allowed

CARDS = (8, 12, 16, 24, 32, 40, 48, 80, 141)  # GiB of the cards people have
PASSES = "more and smaller passes; the update is the same"
FEW = 16  # full-length sequences: with room for fewer, a server hardly batches
SHARES = {"sglang": "sglang.mem_fraction_static", "vllm": "vllm.gpu_memory_utilization"}
TURNS = {
    "rollout.scheduling_strategy.type": "colocation",
    "rollout.scheduling_strategy.target": "actor",
    "enable_offload": True,
    "sglang.enable_memory_saver": True,
}


@dataclass(frozen=True)
class Change:
    settings: Settings
    before: Settings
    why: str
    rank: int = 0  # its place in the order of what hurts least

    def __str__(self) -> str:
        return ", ".join(f"{key} {_shown(self.before[key])} -> {_shown(new)}" for key, new in self.settings.items())


@dataclass
class Fit:
    """The changes in the order of the list above, and the plan they lead to, which may still not fit."""

    plan: MemoryPlan
    changes: list[Change] = field(default_factory=list)

    @property
    def settings(self) -> Settings:
        return {key: value for change in self.changes for key, value in change.settings.items()}


def _shown(value) -> str:
    return "unset" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def fit(values: Mapping, model_config: Mapping, gpus: list[GPU], resolve: Resolve, memory: int = 0) -> Fit:
    """The fewest of the least harmful changes after which the run fits these cards, or all that help if none do."""

    def planned(settings: Settings) -> MemoryPlan | None:
        resolved = resolve(settings) if settings else values
        return resolved and plan_for(resolved, model_config, gpus, memory)

    found = Fit(planned({}))
    while not found.plan.fits and (step := _next(found, values, planned, resolve)):
        found = step
    for change in reversed(found.changes) if found.plan.fits else ():  # a later one may have made it needless
        for milder in _milder(change):
            changes = [milder if other is change else other for other in found.changes]
            changes = [other for other in changes if other.settings]
            plan = planned(Fit(found.plan, changes).settings)
            if plan and plan.fits:
                found = Fit(plan, changes)
                break
    return found


def _milder(change: Change) -> Iterator[Change]:
    """No change; and for a number that was halved again and again, each step on the way."""
    yield replace(change, settings={})
    (key, new), *others = change.settings.items()
    half = change.before[key]
    while not others and isinstance(new, int) and not isinstance(new, bool) and (half := half // 2) > new:
        yield replace(change, settings={key: half})


def _next(found: Fit, values: Mapping, planned: Callable, resolve: Resolve) -> Fit | None:
    current = resolve(found.settings) if found.changes else values
    for rank, (settings, why) in enumerate(_candidates(current, found.plan)):
        before = {key: run_values.get(current, key) for key in settings}
        new = {key: value for key, value in settings.items() if value != before[key]}
        plan = planned(found.settings | new) if new else None
        if plan and plan.fullest.missing < found.plan.fullest.missing:
            change = Change(new, {key: before[key] for key in new}, why, rank)
            return Fit(plan, _merged(found.changes, change))
    return None


def _merged(changes: list[Change], change: Change) -> list[Change]:
    """The same keys changed again are one change, from the first value to the last."""
    for i, earlier in enumerate(changes):
        if set(earlier.settings) == set(change.settings):
            return [*changes[:i], replace(change, before=earlier.before), *changes[i + 1 :]]
    return sorted([*changes, change], key=lambda change: change.rank)


def _candidates(values: Mapping, plan: MemoryPlan) -> Iterator[tuple[Settings, str]]:
    """Settings that may help, least harmful first, with what they cost."""

    def get(key: str):
        return run_values.get(values, key)

    card, adam = plan.fullest, get("actor.optimizer.type") == "adam"
    yield _share(values, plan, plan.server.sequences, card.in_turns), "room for all sequences that run at once"
    if len(plan.cards) > 1 or plan.trainer.shards > 1:
        yield {"actor.fsdp.memory_efficient_load": True}, "loads each rank's part only; the start takes longer"
    budget = get("actor.mb_spec.max_tokens_per_mb")
    if budget and budget // 2 >= run_values.longest(values):
        yield {"actor.mb_spec.max_tokens_per_mb": budget // 2}, PASSES
    yield {"actor.gradient_checkpointing": True}, "layers are computed twice: about a third slower updates"
    few = min(FEW, plan.server.sequences)
    yield _share(values, plan, few, card.in_turns), "fewer sequences at once: slower rollouts"
    if budget and (smallest := -(-run_values.longest(values) // run_values.PAGE) * run_values.PAGE) < budget:
        yield {"actor.mb_spec.max_tokens_per_mb": smallest}, PASSES
    if card.name.startswith("GPU") and adam:
        yield {"actor.fsdp.per_layer_optim_step": True}, "Adam's states in the machine's memory: slower updates"
    if len(card.processes) > 1 and plan.allocation == "sglang:d1p1t1+fsdp:d1p1t1" and not card.in_turns:
        share = _share(values, plan, few, turns=True)
        yield TURNS | share, "server and trainer in turns: no rollouts during updates"
    if get("kl_reference") and not get("actor.kl_ctl"):
        yield {"kl_reference": False}, "the KL to the start model is not logged"
    if adam:
        precise = {"actor.optimizer.type": "adam_bf16", "actor.optimizer_dtype": "bfloat16"}
        yield precise | {"actor.fsdp.per_layer_optim_step": False}, "weights and states in bfloat16, Kahan sums"
    if card.name.startswith("GPU"):
        yield {"actor.fsdp.offload_params": True}, "weights and states in the machine's memory: much slower"
    yield {"actor.use_lora": True}, "trains adapters of rank actor.lora_rank; wants a larger actor.lr"
    for key, least, why in (
        ("gconfig.max_new_tokens", 128, "long solutions are cut off"),
        ("gconfig.n_samples", 2, "smaller groups: a coarser baseline"),
        ("train_dataset.batch_size", 1, "noisier updates"),
    ):
        if get(key) // 2 >= least:
            yield {key: get(key) // 2}, why


def _share(values: Mapping, plan: MemoryPlan, sequences: int, turns: bool = False) -> Settings:
    """A share of the card that holds the model and at least so many sequences: what is left, up to twice as many."""
    key, card = SHARES.get(plan.server.backend), plan.fullest
    servers = [process for process in card.processes if process.name.startswith(plan.server.backend)]
    if not key or not servers:
        return {}
    static = servers[0].parts["weights"] + servers[0].parts["keys and values"]
    free = static / run_values.get(values, key) if plan.server.backend == "sglang" else card.capacity
    others = CONTEXT * (len(card.processes) - 1) if turns else card.together - servers[0].total
    left = static + card.capacity - card.used - others - servers[0].total
    least, most = (plan.server.smallest_share(int(free), card.capacity, many) for many in (sequences, 2 * sequences))
    share = max(least, min(most, int(left / free * 100) / 100))
    return {key: share} if share < 1 else {}


def hardware(values: Mapping, model_config: Mapping, gpus: list[GPU], resolve: Resolve) -> str:
    """The smallest card of as many on which some set of changes fits; what is said when nothing fits these."""
    for gib in CARDS:
        if gib > max(gpu.gib for gpu in gpus):
            found = fit(values, model_config, [GPU(gib)] * len(gpus), resolve)
            if found.plan.fits:
                return f"{len(gpus)} of {gib} GB would do" + (
                    f" with {len(found.changes)} changes" * bool(found.changes)
                )
    each = max(card.total for card in plan_for(values, model_config, [GPU(CARDS[-1])] * len(gpus)).cards)
    return f"no {len(gpus)} cards do: each would need {each / GIB:.0f} GiB; spread the model over more of them"
