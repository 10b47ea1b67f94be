"""Finds the changes that make a plan fit, the least harmful first, in the order of docs/troubleshooting.md.

First come changes that alter no number of the run (how a step is cut up, the server's share of the card, recomputing
instead of storing), then precision, adapters instead of all weights, and fewer or shorter completions. Last come moves
between the card and the machine's memory, which are slow: Adam's states, server and trainer in turns, all weights. A
change stays only when the plan needs it and gets smaller by it: the batch size, for one, is no part of the
peak unless all of a batch fits one micro-batch.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from areal_gsm8k.config.compose import MEASURE_ONLY
from areal_gsm8k.machine.nvidia import GIB, MIB
from areal_gsm8k.plan.memory import run_values
from areal_gsm8k.plan.memory.plan import CONTEXT, CardMemory, MemoryPlan, plan_for
from areal_gsm8k.plan.memory.run_values import SHARES

Overrides = dict[str, object]  # dotted keys
Resolve = Callable[[Overrides], Mapping | None]  # the configuration with these laid over it; None: it cannot run

CARDS = (8, 12, 16, 24, 32, 40, 48, 80, 141)  # GiB of the cards people have
PASSES = "more and smaller passes; the update is the same"
SLOWER = "less for the server: fewer sequences at once, slower rollouts"
FEW = 16  # full-length sequences: a server with room for fewer hardly batches
HEADROOM = 512 * MIB  # of a card, left free where it can be: a desktop takes as much (tests/config/test_defaults.py)
TURNS = {
    "rollout.scheduling_strategy.type": "colocation",
    "rollout.scheduling_strategy.target": "actor",
    "enable_offload": True,
    "sglang.enable_memory_saver": True,
}


@dataclass(frozen=True)
class Change:
    settings: Overrides
    before: Overrides
    why: str
    rank: int = 0  # its place in the order, the least harmful first

    def __str__(self) -> str:
        return ", ".join(f"{key} {_shown(self.before[key])} -> {_shown(new)}" for key, new in self.settings.items())


@dataclass
class Fit:
    """The changes in the order of `_candidates`, and the plan they lead to, which may still not fit."""

    plan: MemoryPlan
    changes: list[Change] = field(default_factory=list)

    @property
    def settings(self) -> Overrides:
        return {key: value for change in self.changes for key, value in change.settings.items()}


def _shown(value) -> str:
    return "unset" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def fit(values: Mapping, model_config: Mapping, gpus: list[CardMemory], resolve: Resolve, memory: int = 0) -> Fit:
    """The fewest of the least harmful changes after which the run fits these cards, or all that help if none do.

    The search aims at HEADROOM free on each card, and accepts less where no change frees more.
    """

    def planned(settings: Overrides) -> MemoryPlan | None:
        resolved = resolve(settings) if settings else values
        return resolved and plan_for(resolved, model_config, gpus, memory)

    found = Fit(planned({}))
    while found.plan.short(HEADROOM) and (step := _next(found, values, planned, resolve)):
        found = step
    room = 0 if found.plan.short(HEADROOM) else HEADROOM
    for change in reversed(found.changes) if found.plan.fits else ():  # a later one may have made it needless
        for milder in _milder(change):
            changes = [milder if other is change else other for other in found.changes]
            changes = [other for other in changes if other.settings]
            plan = planned(Fit(found.plan, changes).settings)
            if plan and not plan.short(room):
                found = Fit(plan, changes)
                break
    return _with_larger_share(found, planned, resolve, room)


def _with_larger_share(found: Fit, planned: Callable, resolve: Resolve, room: int) -> Fit:
    """Raise the server's share again: it was cut before the other changes, which may leave it more room."""
    key = SHARES.get(found.plan.server.backend)
    cut = next((change for change in found.changes if set(change.settings) == {key}), None)
    for sequences in (found.plan.server.sequences, FEW) if cut and found.plan.fits else ():
        larger = _share(resolve(found.settings), found.plan, sequences, found.plan.fullest.in_turns)
        plan = planned(found.settings | larger)
        if plan and not plan.short(room) and larger.get(key, 0) > cut.settings[key]:
            raised = replace(cut, settings=larger)
            return Fit(plan, [raised if change is cut else change for change in found.changes])
    return found


def _milder(change: Change) -> Iterator[Change]:
    """Milder forms of a change: none; and for a number that was halved again and again, each step on the way."""
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
        if not plan or plan.host_missing > found.plan.host_missing:
            continue
        if plan.short(HEADROOM) < found.plan.short(HEADROOM):
            change = Change(new, {key: before[key] for key in new}, why, rank)
            return Fit(plan, _merged(found.changes, change))
    return None


def _merged(changes: list[Change], change: Change) -> list[Change]:
    """Join changes of the same keys into one change, from the first value to the last."""
    for i, earlier in enumerate(changes):
        if set(earlier.settings) == set(change.settings):
            return [*changes[:i], replace(change, before=earlier.before), *changes[i + 1 :]]
    return sorted([*changes, change], key=lambda change: change.rank)


def _candidates(values: Mapping, plan: MemoryPlan) -> list[tuple[Overrides, str]]:
    """Overrides that may help, least harmful first, with their price; {} for those that do not apply."""

    def get(key: str):
        return run_values.get(values, key)

    def halved(key: str, least: int = 1) -> Overrides:
        return {key: get(key) // 2} if get(key) and get(key) // 2 >= least else {}

    card, few = plan.fullest, min(FEW, plan.server.sequences)
    on_gpu, adam = card.name.startswith("GPU"), get("actor.optimizer.type") == "adam"
    budget, longest = "actor.mb_spec.max_tokens_per_mb", run_values.longest(values)
    smallest = -(-longest // run_values.PAGE) * run_values.PAGE
    several = len(plan.cards) > 1 or plan.trainer.shards > 1
    shared = len(card.processes) > 1 and plan.allocation == "sglang:d1p1t1+fsdp:d1p1t1" and not card.in_turns
    unrewarded = get("kl_reference") and (get("actor.kl_ctl") or 0) <= MEASURE_ONLY
    precise = {"actor.optimizer.type": "adam_bf16", "actor.optimizer_dtype": "bfloat16"}
    if get("actor.fsdp.per_layer_optim_step"):
        precise["actor.fsdp.per_layer_optim_step"] = False  # AReaL steps by layer with adam only
    return [
        (_share(values, plan, plan.server.sequences, card.in_turns), SLOWER),
        ({"actor.fsdp.memory_efficient_load": True} if several else {}, "loads each rank's part only; a slower start"),
        (halved(budget, longest), PASSES),
        ({"actor.gradient_checkpointing": True}, "layers are computed twice: about a third slower updates"),
        (_share(values, plan, few, card.in_turns), SLOWER),
        ({budget: smallest} if smallest < (get(budget) or 0) else {}, PASSES),
        (halved("rollout.max_concurrent_rollouts", -(-FEW // get("gconfig.n_samples"))), SLOWER),
        ({"kl_reference": False, "actor.kl_ctl": 0.0} if unrewarded else {}, "the KL to the start model is not logged"),
        (precise if adam else {}, "weights and states in bfloat16, Kahan sums"),
        ({"actor.use_lora": True}, "trains adapters of rank actor.lora_rank; wants a larger actor.lr"),
        (halved("gconfig.max_new_tokens", 128), "long solutions are cut off"),
        (halved("gconfig.n_samples", 2), "smaller groups: a coarser baseline"),
        (halved("train_dataset.batch_size"), "noisier updates"),
        ({"actor.fsdp.per_layer_optim_step": True} if on_gpu and adam else {}, "Adam's states in RAM: slower updates"),
        (TURNS | _share(values, plan, few, turns=True) if shared else {}, "in turns: no rollouts during updates"),
        ({"actor.fsdp.offload_params": True} if on_gpu else {}, "weights and states in RAM: much slower"),
    ]


def _share(values: Mapping, plan: MemoryPlan, sequences: int, turns: bool = False) -> Overrides:
    """A share of the card that holds the model and at least so many sequences: the free rest, up to twice as many."""
    key, card = SHARES.get(plan.server.backend), plan.fullest
    servers = [process for process in card.processes if process.name.startswith(plan.server.backend)]
    if not key or not servers:
        return {}
    static = servers[0].parts["weights"] + servers[0].parts["keys and values"]
    free = static / plan.server.share if plan.server.backend == "sglang" else card.capacity
    if free <= 0:  # other programs hold the card
        return {}
    others = CONTEXT * (len(card.processes) - 1) if turns else card.together - servers[0].total
    left = static + card.capacity - HEADROOM - card.used - others - servers[0].total
    least, most = (plan.server.smallest_share(int(free), card.capacity, many) for many in (sequences, 2 * sequences))
    share = max(least, min(most, int(left / free * 100) / 100))
    return {key: share} if 0 < share < 1 else {}


def hardware(values: Mapping, model_config: Mapping, gpus: list[CardMemory], resolve: Resolve) -> str:
    """The hardware that would do when nothing fits: these cards without other programs, or as many larger ones."""
    held, emptied = sum(gpu.used for gpu in gpus), [CardMemory(gpu.gib) for gpu in gpus]
    if held and fit(values, model_config, emptied, resolve).plan.fits:
        return f"these would do with some changes once you end what holds {held:.1f} GiB of them"
    for gib in CARDS:
        if gib > max(gpu.gib for gpu in gpus):
            found = fit(values, model_config, [CardMemory(gib)] * len(gpus), resolve)
            if found.plan.fits:
                return f"{len(gpus)} of {gib} GB would do" + (
                    f" with {len(found.changes)} changes" * bool(found.changes)
                )
    each = max(card.total for card in plan_for(values, model_config, [CardMemory(CARDS[-1])] * len(gpus)).cards)
    return f"no {len(gpus)} cards do: each would need {each / GIB:.0f} GiB; spread the model over more of them"


def held_by_others(
    plan: MemoryPlan, values: Mapping, model_config: Mapping, gpus: list[CardMemory], memory: int
) -> float:
    """GiB that other programs hold, when the run would fit without them; else 0."""
    held, emptied = sum(gpu.used for gpu in gpus), [CardMemory(gpu.gib) for gpu in gpus]
    return held if held and not plan.fits and plan_for(values, model_config, emptied, memory).fits else 0.0


def smallest(values: Mapping, model_config: Mapping) -> list[CardMemory]:
    """Cards of the smallest usual size that hold the run as it is, as many as it needs; of the largest if none do.

    Server and trainer share a card only where the configured cluster has no more.
    """
    sides, cluster = run_values.allocated(values), values["cluster"]
    several = cluster["n_nodes"] * cluster["n_gpus_per_node"] > 1
    count = sides.rollout.devices + sides.train.devices if several else 1
    held = (gib for gib in CARDS if not plan_for(values, model_config, [CardMemory(gib)] * count).short(HEADROOM))
    return [CardMemory(next(held, CARDS[-1]))] * count
