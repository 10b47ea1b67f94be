"""Places the processes of a run on cards, sums their memory and says whether it fits: `plan_for`.

Cards are filled as AReaL's local launcher does (areal/infra/launcher/local.py): rollout servers first, trainer ranks
after them, and again from the first card after the last. Processes that share a card may peak at the same time, so
their peaks add up; only in AReaL's colocation, where they take turns, the larger peak counts.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

from areal_gsm8k.config import devices
from areal_gsm8k.config.schema import ConfigError
from areal_gsm8k.machine.cards import CardMemory
from areal_gsm8k.machine.nvidia import GIB, MIB
from areal_gsm8k.plan.memory import run_values
from areal_gsm8k.plan.memory.model_shape import ModelShape, from_config
from areal_gsm8k.plan.memory.server import Server
from areal_gsm8k.plan.memory.trainer import Parts, Trainer

# A CUDA context with PyTorch's kernels: 287 to 426 MiB were measured (pytorch#86509, unsloth-zoo#1053).
CONTEXT = 512 * MIB
COMMUNICATION = 512 * MIB  # NCCL's buffers where several GPUs work together: assumed
FRAGMENTS = 0.1  # share of short-lived memory that is lost between PyTorch's blocks: assumed
COME_AND_GO = ("gathered", "activations", "logits", "working")
# Python with its libraries on a machine without a GPU: resident set after the imports, measured on Linux.
LIBRARIES = {"trainer": 700 * MIB, "server": 400 * MIB}
RESERVE = 4 * GIB  # of RAM, for the system and for the processes themselves where GPUs do the work: assumed


@dataclass
class Process:
    name: str
    moment: str  # when the process needs most
    parts: Parts  # bytes
    note: str = ""

    @property
    def total(self) -> int:
        return sum(self.parts.values())


@dataclass
class PlannedCard:
    """A GPU, or the machine's memory, with the processes on it."""

    name: str
    capacity: int  # bytes
    processes: list[Process]
    used: int = 0  # by other programs
    in_turns: bool = False

    @property
    def total(self) -> int:
        return self.used + (self.turns if self.in_turns else self.together)

    @property
    def together(self) -> int:
        """Bytes that the processes need when each keeps its part."""
        return sum(process.total for process in self.processes)

    @property
    def turns(self) -> int:
        """Bytes that the processes need when one at a time has more than its CUDA context."""
        contexts = [process.parts.get("CUDA context", 0) for process in self.processes]
        most = (process.total - context for process, context in zip(self.processes, contexts, strict=True))
        return sum(contexts) + max(most)

    @property
    def missing(self) -> int:
        return self.short()

    @property
    def spare(self) -> int:
        return self.capacity - self.total

    def short(self, room: int = 0) -> int:
        """Bytes that are missing, on the card or in a server's share of it, when `room` bytes are to stay free."""
        share = -sum(min(0, size) for process in self.processes for size in process.parts.values())
        return max(0, room - self.spare, share)


@dataclass
class MemoryPlan:
    shape: ModelShape
    trainer: Trainer
    server: Server
    allocation: str
    cards: list[PlannedCard]
    host: int = 0  # bytes of RAM that the trainers of one machine use instead of their GPUs' memory
    ram: int = 0  # bytes this machine has, where GPUs do the work; 0: not known, as for cards that are elsewhere
    notes: list[str] = field(default_factory=list)

    @property
    def fits(self) -> bool:
        return not self.short()

    def short(self, room: int = 0) -> int:
        """Bytes that are missing, on the fullest card (when `room` bytes of it stay free) and in RAM."""
        return max(card.short(room) for card in self.cards) + self.host_missing

    @property
    def host_missing(self) -> int:
        return max(0, self.host + RESERVE - self.ram) if self.host and self.ram else 0

    @property
    def in_ram(self) -> str:
        """A sentence on the trainers' use of RAM."""
        needs = f"Trainers keep {self.host / GIB:.1f} GiB in RAM: needs {(self.host + RESERVE) / GIB:.1f} GiB of RAM"
        return f"{needs}; this machine has {self.ram / GIB:.1f}." if self.ram else f"{needs}."

    @property
    def fullest(self) -> PlannedCard:
        return max(self.cards, key=lambda card: (card.missing, card.total / card.capacity))

    def to_dict(self) -> dict:
        """Plain data, for --json. Bytes."""
        cards = [
            asdict(card)
            | {"total": card.total, "missing": card.missing, "together": card.together, "turns": card.turns}
            for card in self.cards
        ]
        model = asdict(self.shape) | {"parameters": self.shape.parameters}
        own = {"allocation": self.allocation, "fits": self.fits, "notes": self.notes}
        host = {"host": self.host, "ram": self.ram, "host_missing": self.host_missing}
        return own | host | {"model": model, "cards": cards}


def plan_for(values: Mapping, model_config: Mapping, gpus: list[CardMemory], memory: int = 0) -> MemoryPlan:
    """Plan a run. Pure.

    values: resolved configuration (config/compose.py, make_plan(...).values). model_config: the content of
    config.json. gpus: the cards of all machines; none for the embedded back end means the CPU. memory: bytes of RAM of
    this machine; 0: not known, and then any move to RAM fits. Raises ShapeError when the model cannot be planned,
    ConfigError naming a key when the configuration cannot.
    """
    shape = from_config(model_config)
    run_values.check_heads(values, shape)
    trainer = run_values.trainer(values, shape, on_gpu=bool(gpus))
    server = run_values.server(values, shape)
    sides = run_values.allocated(values)
    trainers, servers = sides.train.devices, sides.rollout.devices
    if gpus:
        cards = _on_gpus(values, gpus, trainer, server, trainers, servers)
    else:
        processes = [_trainer_process(trainer, f"trainer {i}", False) for i in range(trainers)]
        processes += [_server_process(server, f"{server.backend} server {i}", 0, 0, False) for i in range(servers)]
        cards = [PlannedCard("memory of this machine", memory, processes)]
    machines = run_values.get(values, "cluster.n_nodes") or 1
    host = _moved_to_ram(values, trainer) * min(trainers, max(1, len(gpus) // machines))
    ram = memory if gpus else 0
    return MemoryPlan(shape, trainer, server, str(sides), cards, host, ram, _notes(values, shape, trainer))


def _moved_to_ram(values: Mapping, trainer: Trainer) -> int:
    """One trainer's bytes in RAM; in turns, while the server works, all that the trainer keeps between steps."""
    kept = sum(trainer.resident.values()) + trainer.gradients
    return trainer.host + kept * devices.takes_turns(values)


def of_all_machines(gpus: list[CardMemory], values: Mapping) -> list[CardMemory]:
    """The cards of all machines of a run, from the cards of one machine. Raises ConfigError when they are too few."""
    machines, sides = values["cluster"]["n_nodes"], run_values.allocated(values)
    needed = sides.rollout.devices + sides.train.devices
    if len(gpus) * machines < needed and (needed, len(gpus)) != (2, 1):  # two processes may share one card
        raise ConfigError(
            f"allocation_mode={sides} needs {needed} GPUs; {len(gpus)} a machine with cluster.n_nodes={machines} are "
            f"too few. Plan with --gpus {-(-needed // machines)}x{gpus[0].gib:g}, the cards of one machine."
        )
    return gpus * machines


def _on_gpus(values: Mapping, gpus: list[CardMemory], trainer: Trainer, server: Server, trainers: int, servers: int):
    cards = [PlannedCard(f"GPU {i}", gpu.bytes, [], int(gpu.used * GIB)) for i, gpu in enumerate(gpus)]
    several = {"trainer": trainers > 1, "server": server.tensor * server.pipeline > 1}
    in_turns = devices.takes_turns(values)
    for i in range(trainers):
        process = _trainer_process(trainer, f"trainer {i}", True, several["trainer"])
        cards[(servers + i) % len(cards)].processes.append(process)
    for i in range(servers):
        card = cards[i % len(cards)]
        # The single controller loads actor and reference policy before it starts servers.
        controlled = run_values.get(values, "scheduler.type") and not in_turns
        resident = sum(trainer.resident[part] for part in ("weights", "reference")) + CONTEXT if controlled else 0
        before = resident if any(process.name.startswith("trainer") for process in card.processes) else 0
        free = card.capacity - card.used - CONTEXT - before
        process = _server_process(server, f"{server.backend} server {i}", card.capacity, free, True, several["server"])
        card.processes.insert(0, process)
        card.in_turns = in_turns
    return [card for card in cards if card.processes]


def _trainer_process(trainer: Trainer, name: str, on_gpu: bool, several: bool = False) -> Process:
    moment, parts = trainer.peak()
    return Process(name, moment, _with_overhead(parts, "trainer", on_gpu, several))


def _server_process(server: Server, name: str, card: int, free: int, on_gpu: bool, several: bool = False) -> Process:
    parts = _with_overhead(server.parts(card, free), "server", on_gpu, several)
    return Process(name, "all requests at full length", parts, _room(server, parts["keys and values"]))


def _room(server: Server, kv: int) -> str:
    if server.backend == "embedded":
        return f"{server.sequences} sequences of {server.length} tokens at once"
    if kv < 0:
        return "its share of the card is smaller than the model"
    fitting = kv // (server.length * server.kv_token)
    return f"room for {fitting} sequences of {server.length} tokens; {server.sequences} are asked for at once"


def _with_overhead(parts: Parts, kind: str, on_gpu: bool, several: bool) -> Parts:
    parts = {name: size for name, size in parts.items() if size}
    loose = sum(parts.get(name, 0) for name in COME_AND_GO)
    if not on_gpu:
        return parts | {"Python and libraries": LIBRARIES[kind]}
    return parts | {"CUDA context": CONTEXT + COMMUNICATION * several, "margin": int(FRAGMENTS * loose)}


def _notes(values: Mapping, shape: ModelShape, trainer: Trainer) -> list[str]:
    notes = []
    if not shape.exact:
        notes.append(
            f"model_type {shape.family!r} is not one whose operations were counted: planned with Llama's formulae, "
            f"{shape.parameters / 1e9:.2f} B parameters by them."
        )
    if run_values.get(values, "actor.enable_tree_training"):
        notes.append("actor.enable_tree_training: its attention is not planned; the numbers are those without it.")
    if trainer.second_table:
        notes.append("Tensor parallelism unties the embedding in AReaL's trainer: two tables are trained, and planned.")
    return notes
