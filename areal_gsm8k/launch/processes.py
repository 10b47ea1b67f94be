"""The processes of a run: rollout servers and trainers, started in an order that wastes no time, watched to the end.

Embedded allocations: one trainer process a data-parallel rank, started first because importing AReaL is slow
(launch/prewarm.py), then the start model, then one embedded server a rollout rank; a server that dies is
restarted with the current weights, `embedded.restarts` times in all. SGLang and vLLM: AReaL's own local launcher
(areal/infra/launcher/local.py), which starts servers and trainers itself. With `scheduler.type`, one trainer process
instead, AReaL's single controller; the controller starts worker processes and, except for embedded, the servers.
"""

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from areal_gsm8k.children import Child, ChildDied
from areal_gsm8k.config.compose import Plan
from areal_gsm8k.machine.network import free_port
from areal_gsm8k.paths import SCRIPT
from areal_gsm8k.runs import records
from areal_gsm8k.runs.files import append_lines, read_lines
from areal_gsm8k.runs.records import RecordReader
from areal_gsm8k.runs.run import ENDED, Run
from areal_gsm8k.serve.process import MEMORY_IS_KEPT, ServerProcess

HEALTHY_SECONDS = 120
NOTE_SECONDS = 1.0
CONTROLLER = {"AREAL_SPMD_MODE": "0"}  # AReaL's single controller: one trainer, whose workers AReaL starts
CPU = {
    "GLOO_SOCKET_IFNAME": "lo0" if sys.platform == "darwin" else "lo",
    # Threads that wait must not spin: server and trainer use the same cores, in turns or side by side.
    "OMP_WAIT_POLICY": "PASSIVE",
    **MEMORY_IS_KEPT,  # of a trainer's until the end of its step: training/heap.py
    "TORCHDYNAMO_DISABLE": "1",  # AReaL compiles small functions: 50 s and a C++ compiler, for nothing on a CPU
}


class Hung(RuntimeError):
    """A run whose phase has not changed for too long; the message shows the stacks of its processes."""


class GivenUp(RuntimeError):
    """A process of the run says that it cannot go on; the message is its reason."""


class RunProcesses:
    """Everything that runs beside the launcher. `start_trainers`, then `start_servers`, then `running` until False."""

    def __init__(self, plan: Plan, run: Run):
        self.plan, self.run = plan, run
        self.trainers: list[Child] = []
        self.servers: list[ServerProcess] = []
        self.restarts = 0
        self.last_restart = 0.0  # time.time()
        self.noted = 0.0  # time.time()

    @property
    def embedded(self) -> bool:
        return self.plan.allocation.rollout.backend == "embedded"

    @property
    def by_areal(self) -> bool:
        """Whether AReaL's launcher starts the trainers."""
        return not self.embedded and not self.plan.get("scheduler.type")

    def start_trainers(self) -> None:
        """Start every trainer. Those that we start ourselves import AReaL and then wait for `start_servers`."""
        arguments = [str(SCRIPT), "--config", str(self.run.config)]
        if self.by_areal:
            command = [sys.executable, "-m", "areal_gsm8k.training.areal_launcher", *arguments]
            self.trainers.append(
                Child("AReaL's launcher", command, self.run.logs / "launcher.log", self.plan.environment)
            )
            return
        single = self.plan.get("scheduler.type")
        ranks = 1 if single else self.plan.allocation.train.devices
        for rank in range(ranks):
            environment = self.plan.environment | (CONTROLLER if single else _spmd_environment(rank, ranks))
            if self.embedded:
                environment |= CPU | {"OMP_NUM_THREADS": str(self.plan.get("embedded.trainer_threads"))}
            name = "trainer" if ranks == 1 else f"trainer {rank}"
            command = [sys.executable, "-m", "areal_gsm8k.launch.prewarm", *arguments]
            self.trainers.append(Child(name, command, self.run.logs / f"trainer_{rank}.log", environment))

    def start_servers(self) -> None:
        """Start the embedded servers, if any, wait until they answer, and let the trainers go on."""
        if self.by_areal:
            return
        go = {"MASTER_PORT": str(free_port())}
        if self.embedded:
            self._start_embedded()
            go["AREAL_LLM_SERVER_ADDRS"] = ",".join(f"{server.host}:{server.port}" for server in self.servers)
        self.run.set_status("starting the trainer")
        for trainer in self.trainers:
            trainer.check()
            trainer.send_line(json.dumps({"environment": go}))

    def _start_embedded(self) -> None:
        self.run.set_status("starting the rollout servers")
        self.run.set_served_weights(self.plan.get("actor.path"))
        for index in range(self.plan.allocation.rollout.data):
            self.servers.append(self._start_server(index))
        for server in self.servers:
            server.wait_healthy(HEALTHY_SECONDS)

    def _start_server(self, index: int, port: int = 0) -> ServerProcess:
        """Start a server of the current weights, on a free port or on `port`."""
        return ServerProcess(
            self.run.served_weights(),
            self.run.logs / f"server_{index}.log",
            port=port,
            threads=self.plan.get("embedded.threads"),
            max_running_requests=self.plan.get("embedded.max_running_requests"),
            dtype=self.plan.get("actor.dtype"),
            seed=self.plan.get("seed") + index,
            environment=self.plan.environment | CPU,
        )

    def running(self) -> bool:
        """False once every trainer has ended well.

        Raises ChildDied when a process failed for good, GivenUp when a process of the run says that it cannot
        go on, Hung when nothing moves.
        """
        if reason := records.given_up(self.run.records):
            raise GivenUp(reason)
        unfinished = [trainer for trainer in self.trainers if trainer.exit_code() != 0]
        for trainer in unfinished:
            if self.by_areal and time.time() > self.noted + NOTE_SECONDS:
                self.noted = time.time()
                trainer.note_family()  # AReaL's launcher may be killed, and its jobs live in sessions of their own
            if self.by_areal and trainer.exit_code() and self.run.status().get("phase") in ENDED:
                return False  # AReaL's launcher ends with an error also after a trainer that ended well
            trainer.check()
        if unfinished:
            for index in range(len(self.servers)):
                self._keep_alive(index)
            self._check_progress()
        return bool(unfinished)

    def _keep_alive(self, index: int) -> None:
        """Restart a dead server on the port that the trainers know and wait for (training/patient_client.py).

        Raises ChildDied when `embedded.restarts` is spent.
        """
        server = self.servers[index]
        # The single controller's workers do not say which weights they sent last.
        bound = 0 if self.plan.get("scheduler.type") else self.plan.get("embedded.restarts")
        how = server.ending()
        if how is None:
            return
        if self.restarts >= bound:
            server.check()
        self.restarts += 1
        self.last_restart = time.time()
        event = {"time": self.last_restart, "server": index, "ended": how, "restart": self.restarts, "bound": bound}
        append_lines(self.run.restarts, [event | {"weights": self.run.served_weights(), "log": str(server.log)}])
        server.stop()
        with suppress(ChildDied):  # it died before it took the port: the next look finds it dead and counts it
            self.servers[index] = self._start_server(index, server.port)

    def _check_progress(self) -> None:
        """Raise Hung when the trainer has been in one phase for longer than hang_seconds, restarts not counted."""
        status, limit = self.run.status(), self.plan.get("hang_seconds")
        waited = time.time() - max(status.get("time", time.time()), self.last_restart)
        if waited > limit:
            reports = "\n".join(child.stacks() for child in [*self.trainers, *self.servers])
            raise Hung(
                f"nothing has moved for {waited:.0f} s (hang_seconds={limit}) in the phase "
                f"'{status['phase']}'{_at(status)}. What each process is doing:\n{reports}"
            )

    def stop(self) -> None:
        for child in [*self.trainers, *self.servers]:
            child.stop()


@contextmanager
def processes(plan: Plan, run: Run) -> Iterator[RunProcesses]:
    """The processes of a run; none is left when the block ends, however it ends."""
    group = RunProcesses(plan, run)
    try:
        yield group
    except GivenUp:
        group.stop()
        _write_rejected(run)
        raise
    finally:
        group.stop()


def _write_rejected(run: Run) -> None:
    """Put on file, in the place of a trainer that was stopped while it waited, the samples that no step consumed."""
    written = {row["id"] for row in read_lines(run.rejected)[0]}
    rejected = RecordReader(run.records).take_rejected()
    step = run.status().get("step", 0)
    append_lines(run.rejected, [row | {"step": step} for row in rejected if row["id"] not in written])


def _at(status: dict) -> str:
    return f" of step {status['step']}" if "step" in status else ""


def _spmd_environment(rank: int, ranks: int) -> dict[str, str]:
    """What torchrun and AReaL's launcher would set for one rank on this machine, on the loopback interface only.

    The go brings MASTER_PORT, so that the port is free when it is used.
    """
    return {
        "AREAL_SPMD_MODE": "1",
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(ranks),
        "LOCAL_WORLD_SIZE": str(ranks),
        "MASTER_ADDR": "127.0.0.1",
    }
