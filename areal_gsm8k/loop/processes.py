"""The processes of a run: rollout servers and trainers, started in an order that wastes no time, watched to the end.

Embedded allocations: one trainer process a data-parallel rank, started first because importing AReaL is slow
(areal_gsm8k/loop/prewarm.py), then the start model, then one embedded server a rollout rank. SGLang and vLLM: AReaL's
own local launcher (areal/infra/launcher/local.py), which starts servers and trainers itself.
"""

import json
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from areal_gsm8k.children import Child
from areal_gsm8k.loop.config import PROJECT, Plan
from areal_gsm8k.runs import FINISHED, Run
from areal_gsm8k.serve.process import ServerProcess

SCRIPT = PROJECT / "train_grpo.py"
HEALTHY_SECONDS = 120


class Hung(RuntimeError):
    """A run whose phase has not changed for too long; the message shows the stacks of its processes."""


class RunProcesses:
    """Everything that runs beside the launcher. `start_trainers`, then `start_servers`, then `running` until False."""

    def __init__(self, plan: Plan, run: Run):
        self.plan, self.run = plan, run
        self.trainers: list[Child] = []
        self.servers: list[ServerProcess] = []

    @property
    def embedded(self) -> bool:
        return self.plan.allocation.rollout.backend == "embedded"

    def start_trainers(self) -> None:
        """Start every trainer; with the embedded back end they import AReaL and then wait for the servers."""
        arguments = [str(SCRIPT), "--config", str(self.run.config)]
        if not self.embedded:
            command = [sys.executable, "-m", "areal_gsm8k.loop.areal_launcher", *arguments]
            self.trainers.append(
                Child("AReaL's launcher", command, self.run.logs / "launcher.log", self.plan.environment)
            )
            return
        ranks = self.plan.allocation.train.devices
        for rank in range(ranks):
            environment = self.plan.environment | _spmd_environment(rank, ranks)
            name = "trainer" if ranks == 1 else f"trainer {rank}"
            command = [sys.executable, "-m", "areal_gsm8k.loop.prewarm", *arguments]
            self.trainers.append(Child(name, command, self.run.logs / f"trainer_{rank}.log", environment))

    def start_servers(self) -> None:
        """Start the embedded servers, wait until they answer, and let the trainers go on."""
        if not self.embedded:
            return
        self.run.set_status("starting the rollout servers")
        options = self.plan.values["embedded"]
        for index in range(self.plan.allocation.rollout.data):
            self.servers.append(
                ServerProcess(
                    self.plan.get("actor.path"),
                    self.run.logs / f"server_{index}.log",
                    threads=options["threads"],
                    max_running_requests=options["max_running_requests"],
                    dtype=self.plan.get("actor.dtype"),
                    seed=self.plan.get("seed") + index,
                    environment=self.plan.environment,
                )
            )
        for server in self.servers:
            server.wait_healthy(HEALTHY_SECONDS)
        go = {
            "AREAL_LLM_SERVER_ADDRS": ",".join(f"{server.host}:{server.port}" for server in self.servers),
            "MASTER_PORT": str(_free_port()),
        }
        self.run.set_status("starting the trainer")
        for trainer in self.trainers:
            trainer.check()
            trainer.send_line(json.dumps({"environment": go}))

    def running(self) -> bool:
        """False once every trainer has ended well. Raises ChildDied when anything ended otherwise."""
        unfinished = [trainer for trainer in self.trainers if trainer.exit_code() != 0]
        for trainer in unfinished:
            if not self.embedded and trainer.exit_code() and self.run.status().get("phase") == FINISHED:
                return False  # AReaL's launcher ends with an error also after a trainer that ended well
            trainer.check()
        if unfinished:
            for server in self.servers:
                server.check()
            self._check_progress()
        return bool(unfinished)

    def _check_progress(self) -> None:
        """Raise Hung when the trainer has been in one phase for longer than hang_seconds."""
        status, limit = self.run.status(), self.plan.get("hang_seconds")
        waited = time.time() - status.get("time", time.time())
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
    finally:
        group.stop()


def _at(status: dict) -> str:
    return f" of step {status['step']}" if "step" in status else ""


def _spmd_environment(rank: int, ranks: int) -> dict[str, str]:
    """What torchrun and AReaL's launcher would set for one rank on this machine, on the loopback interface only.

    MASTER_PORT comes with the go, so that it is free when it is used.
    """
    return {
        "AREAL_SPMD_MODE": "1",
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(ranks),
        "LOCAL_WORLD_SIZE": str(ranks),
        "MASTER_ADDR": "127.0.0.1",
        "GLOO_SOCKET_IFNAME": "lo0" if sys.platform == "darwin" else "lo",
        "OMP_NUM_THREADS": "1",  # two threads are slower than one at the sizes a CPU can train
        "TORCHDYNAMO_DISABLE": "1",  # AReaL compiles small functions: 50 s and a C++ compiler, for nothing on a CPU
    }


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
