"""Simulates a run: AReaL's rules, with given speeds of servers and trainers.

played = Simulation(server, trainer, workload, servers=2, ranks=1).run(steps=20)

Events are: a completion is done, a trainer's phase is over, interrupted requests come back. Between two events every
request decodes at its server's rate of that moment. The rules, with their places in AReaL 1.0.4:

- A prompt is admitted while `running < max_concurrent_rollouts` and `accepted + running < (max_head_offpolicyness +
  version + 1) * batch_size`, of each data-parallel trainer its share (areal/infra/staleness_manager.py). Prompts are
  always there to be admitted, also while the trainer works: training/rollouts.py submits them ahead.
- Requests go to the servers in turn (areal/infra/remote_inf_engine.py); a group is accepted when all are done, and a
  batch is the oldest accepted groups, as soon as every trainer has its share (areal/infra/dist_rollout.py).
- A weight update aborts running requests; the client looks every 0.5 s whether rollouts are still paused, and then
  asks again, with the tokens so far (areal/infra/remote_inf_engine.py, agenerate).
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from areal_gsm8k.plan.speed.rates import ServerSpeed, TrainerSpeed
from areal_gsm8k.plan.speed.workload import Workload

LOOK_SECONDS = 0.5  # how often an interrupted request looks whether it may go on
NEVER = math.inf


@dataclass(frozen=True)
class Step:
    """One step of the trainer. Times in seconds; staleness as the metric of that name (docs/metrics.md)."""

    seconds: float
    wait: float  # the part of `seconds` spent waiting for the batch
    tokens: int
    staleness: float
    staleness_max: int


@dataclass(eq=False)
class Group:
    """A prompt's completions under way, or accepted."""

    number: int  # in the order of admission
    client: SimulatedClient
    unfinished: int
    tokens: int
    versions: list[set[int]]  # the policy versions that sampled each completion


@dataclass(eq=False)
class SimulatedRequest:
    group: Group
    sample: int
    tokens: float  # still to be decoded
    server: RunningServer


@dataclass(eq=False)
class SimulatedClient:
    """AReaL's rollout client of one data-parallel trainer, with the counts of its staleness manager."""

    running: int = 0
    accepted: int = 0
    ready: list[Group] = field(default_factory=list)  # accepted and not yet trained on


@dataclass(eq=False)
class RunningServer:
    speed: ServerSpeed
    tokens: float = 0.0  # decoded so far by a request that has run since the start
    order: Iterator[int] = field(default_factory=itertools.count)
    running: list[tuple[float, int, SimulatedRequest]] = field(default_factory=list)  # heap: `tokens` when it is done
    waiting: deque[SimulatedRequest] = field(default_factory=deque)

    def submit(self, request: SimulatedRequest) -> None:
        self.waiting.append(request)
        self.fill()

    def fill(self) -> None:
        while self.waiting and len(self.running) < self.speed.rows:
            request = self.waiting.popleft()
            heapq.heappush(self.running, (self.tokens + request.tokens, next(self.order), request))

    def seconds_to_next(self) -> float:
        """Until the first of its requests is done, with a core of its own."""
        if not self.running:
            return NEVER
        return (self.running[0][0] - self.tokens) * self.speed.seconds_per_token(len(self.running))

    def decode(self, seconds: float) -> None:
        if self.running:
            self.tokens += seconds / self.speed.seconds_per_token(len(self.running))

    def finished(self) -> SimulatedRequest:
        self.tokens, _, request = heapq.heappop(self.running)
        self.fill()
        return request

    def abort(self) -> Iterator[tuple[SimulatedRequest, bool]]:
        """Every request, and whether it has any new token; its `tokens` become those still to decode."""
        for done_at, _, request in sorted(self.running):
            left = done_at - self.tokens
            yield request, left < request.tokens
            request.tokens = left
        yield from ((request, False) for request in self.waiting)
        self.running.clear()
        self.waiting.clear()


@dataclass(frozen=True)
class Phase:
    """The trainer's work until its next event: so many seconds, with a core for each rank if `busy`."""

    seconds: float
    busy: bool = False


class Simulation:
    """`servers` and `ranks` processes. `cores`: CPU cores that all of them share; None where each has its own GPU."""

    def __init__(
        self,
        server: ServerSpeed,
        trainer: TrainerSpeed,
        workload: Workload,
        servers: int,
        ranks: int,
        cores: int | None = None,
    ):
        self.trainer, self.workload, self.ranks, self.cores = trainer, workload, ranks, cores or NEVER
        self.servers = [RunningServer(server) for _ in range(servers)]
        self.clients = [SimulatedClient() for _ in range(ranks)]
        self.turns = [itertools.cycle(self.servers) for _ in range(ranks)]
        self.numbers = itertools.count()
        self.share = workload.batch // ranks  # AReaL rounds down
        self.concurrent = max(1, workload.concurrent // ranks)
        self.now, self.version = 0.0, 0
        self.admitting = self.generating = True
        self.held: deque[tuple[float, list[SimulatedRequest]]] = deque()  # interrupted; the time they look again
        self.steps: list[Step] = []

    def run(self, steps: int) -> list[Step]:
        self._admit()
        training = self._train()
        phase = next(training)
        while len(self.steps) < steps:
            active = [server for server in self.servers if self.generating and server.running]
            processes = len(active) + phase.busy * self.ranks
            slowdown = max(1.0, processes / self.cores)
            nearest = min(active, key=RunningServer.seconds_to_next, default=None)
            own = phase.seconds * (slowdown if phase.busy else 1)
            done = nearest.seconds_to_next() * slowdown if nearest else NEVER
            back = self.held[0][0] - self.now if self.held else NEVER
            seconds = min(own, done, back)
            self.now += seconds
            for server in active:
                server.decode(seconds / slowdown)
            phase = Phase(phase.seconds - seconds / (slowdown if phase.busy else 1), phase.busy)
            if own == seconds:
                phase = next(training)
            elif done == seconds:
                self._finish(nearest.finished())
                if phase.busy:  # one interpreter does both; the measured rate includes it while the trainer waits
                    phase = Phase(phase.seconds + self.trainer.handling / self.ranks, busy=True)
                if phase.seconds == NEVER and self._batch_is_there():
                    phase = next(training)
            else:
                for request in self.held.popleft()[1]:
                    request.server.submit(request)
        return self.steps

    def _train(self) -> Iterator[Phase]:
        """The trainer's loop (areal/trainer/rl_trainer.py, train); each yield ends when its phase has passed."""
        while True:
            began = self.now
            if not self._batch_is_there():
                yield Phase(NEVER)
            wait, batch = self.now - began, self._take_batch()
            tokens = sum(group.tokens for group in batch)
            ages = [self.version - version for group in batch for held in group.versions for version in held]
            yield Phase(self.trainer.seconds(tokens, self.ranks), busy=True)
            self.admitting = self.generating = False
            self._interrupt()
            yield Phase(self.trainer.update)
            self.version += 1
            self.generating = True
            yield Phase(self.trainer.record)
            self.admitting = True
            self._admit()
            self.steps.append(Step(self.now - began, wait, tokens, sum(ages) / len(ages), max(ages)))

    def _admit(self) -> None:
        """Start as many groups as AReaL's staleness manager has capacity for."""
        most = (self.workload.bound + self.version + 1) * self.share
        for client, turn in zip(self.clients, self.turns, strict=True):
            while self.admitting and client.running < self.concurrent and client.accepted + client.running < most:
                number = next(self.numbers)
                lengths = self.workload.group(number)
                group = Group(number, client, len(lengths), sum(lengths), [set() for _ in lengths])
                client.running += 1
                for sample, length in enumerate(lengths):
                    request = SimulatedRequest(group, sample, length, next(turn))
                    request.server.submit(request)

    def _finish(self, request: SimulatedRequest) -> None:
        group = request.group
        group.versions[request.sample].add(self.version)
        group.unfinished -= 1
        if not group.unfinished:
            group.client.running -= 1
            group.client.accepted += 1
            group.client.ready.append(group)
            self._admit()

    def _batch_is_there(self) -> bool:
        return all(len(client.ready) >= self.share for client in self.clients)

    def _take_batch(self) -> list[Group]:
        batch = []
        for client in self.clients:
            client.ready.sort(key=lambda group: group.number)
            batch += client.ready[: self.share]
            del client.ready[: self.share]
        return batch

    def _interrupt(self) -> None:
        requests = []
        for request, began in (pair for server in self.servers for pair in server.abort()):
            if began:
                request.group.versions[request.sample].add(self.version)
            requests.append(request)
        if requests:
            looks = max(1, math.ceil((self.trainer.update + self.trainer.record) / LOOK_SECONDS))
            self.held.append((self.now + looks * LOOK_SECONDS, requests))
