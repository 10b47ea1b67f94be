"""AReaL's own launcher, started as ours starts it on machines with NVIDIA GPUs: which GPU each process would get.

The launcher and the SGLang server's wrapper are AReaL's real code. What they would start, `python3`, `torchrun` and
SGLang, are programs that note how they were called.
"""

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import fake_nvidia_smi
import pytest

from areal_gsm8k.config import compose
from areal_gsm8k.launch import processes, readiness
from areal_gsm8k.machine import nvidia
from areal_gsm8k.paths import PROJECT
from areal_gsm8k.runs.run import Run

pytestmark = pytest.mark.skipif(importlib.util.find_spec("areal") is None, reason="areal is not installed")
PYTHON = Path(sys.executable).parent.resolve() / "python"  # AReaL reads its configuration past no symbolic link

# Runs the launches given as JSON one after the other and prints, for each, what its server's wrapper would start.
DRIVER = """
import json, os, sys, time, types
from areal.infra.launcher import local, sglang_server
from areal.infra.platforms.cuda import CudaPlatform
from areal_gsm8k.training import areal_launcher

local.current_platform = sglang_server.current_platform = CudaPlatform()
launcher = local.LocalLauncher


def addresses(experiment_name, trial_name, n_rollout_servers=1, timeout=1200):
    return ["10.0.0.1:23"]


local.time = types.SimpleNamespace(time=time.time, sleep=lambda seconds: time.sleep(0.1))
sglang_server.SGLangConfig.build_cmd = staticmethod(lambda config, **arguments: arguments)
sglang_server.gethostip = lambda: "10.0.0.1"
sglang_server.kill_process_tree = lambda **kwargs: None
servers = []


class Wrapper(sglang_server.SGLangServerWrapper):
    def launch_one_server(self, arguments, host, port, node_rank):
        servers.append({"gpu": arguments["base_gpu_id"], "port": port})

    def _monitor_server_processes(self, addresses):
        pass


sglang_server.SGLangServerWrapper = Wrapper
for arguments, environment in json.loads(sys.argv[1]):
    os.environ |= environment
    local.LocalLauncher, local.wait_llm_server_addrs = launcher, addresses  # as in a process of its own
    sys.argv = ["launcher", *arguments]
    try:
        areal_launcher.main()
    except SystemExit as said:  # what it started has ended
        print("WORDS", json.dumps(said.code), flush=True)
    called = [json.loads(line) for line in open(os.environ["CALLS"])]
    server = next(call for call in called if call["arguments"][:2] == ["-m", "areal.infra.launcher.sglang_server"])
    os.environ["CUDA_VISIBLE_DEVICES"] = server["gpus"]
    servers.clear()
    sglang_server.main(server["arguments"][2:])
    print("SERVERS", json.dumps(servers), flush=True)
os._exit(0)
"""
# AReaL ends both when one has ended, so each waits for the other's note.
NOTES = """#!{python}
import json, os, sys, time
call = {{"program": sys.argv[0], "gpus": os.environ["CUDA_VISIBLE_DEVICES"], "arguments": sys.argv[1:]}}
call["servers"] = os.environ.get("AREAL_LLM_SERVER_ADDRS")
with open(os.environ["CALLS"], "a") as calls:
    calls.write(json.dumps(call) + chr(10))
deadline = time.monotonic() + 100
while len(open(os.environ["CALLS"]).readlines()) < 2 and time.monotonic() < deadline:
    time.sleep(0.05)
print("the words of", sys.argv[0])
"""

# name: ids of the machine's GPUs, CUDA_VISIBLE_DEVICES, settings; then the GPUs of server and trainer
MACHINES = {
    "one GPU": (["GPU-a"], None, [], "0", "0"),
    "the last of four, by its id": (["GPU-a", "GPU-b", "GPU-c", "GPU-d"], "GPU-d", [], "3", "3"),
    "two GPUs": (["GPU-a", "GPU-b"], None, [], "0", "1"),
    "four of eight": (
        [f"GPU-{number}" for number in range(8)], "4,5,6,7", ["allocation_mode=sglang.d2+fsdp.d2"], "4,5", "6,7"
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def seen(tmp_path_factory) -> dict:
    """What each machine's server and trainer were started with."""
    launches, folders = [], {}
    for name, (ids, variable, settings, *_) in MACHINES.items():
        folder = folders[name] = tmp_path_factory.mktemp(name)  # with blanks in its name
        with pytest.MonkeyPatch.context() as patch:
            for program in ("python3", "torchrun"):
                put(folder / "bin" / program, NOTES.format(python=sys.executable))
            fake_nvidia_smi.write(folder / "bin", *({"uuid": full} for full in ids))
            patch.setenv("PATH", f"{folder / 'bin'}:{os.environ['PATH']}")
            patch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
            if variable:
                patch.setenv("CUDA_VISIBLE_DEVICES", variable)
            # The programs beside our Python come first, which here are the notes.
            patch.setattr(sys, "executable", str(folder / "bin" / "python3"))
            command, environment = started(patch, folder, settings)
        launches.append([command, environment | {"CALLS": str(folder / "calls")}])
    (folder / "driver.py").write_text(DRIVER)
    done = subprocess.run(
        [str(PYTHON), str(folder / "driver.py"), json.dumps(launches)],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=500, cwd=PROJECT,
        env=os.environ | {"PYTHONPATH": str(PROJECT)},
    )  # fmt: skip
    told = [line.split(" ", 1) for line in done.stdout.splitlines() if line.startswith(("SERVERS ", "WORDS "))]
    servers, words = ([json.loads(text) for kind, text in told if kind == wanted] for wanted in ("SERVERS", "WORDS"))
    assert len(servers) == len(words) == len(MACHINES), done.stdout[-4000:]
    return {
        name: (folders[name], calls(folders[name]), ports, said)
        for name, ports, said in zip(MACHINES, servers, words, strict=True)
    }


def put(program: Path, text: str) -> None:
    program.parent.mkdir(exist_ok=True)
    program.write_text(text)
    program.chmod(0o755)


def started(patch, folder: Path, settings: list[str]) -> tuple[list[str], dict[str, str]]:
    """The arguments and environment that `./run train` would start AReaL's launcher with."""
    noted = []
    patch.setattr(processes, "Child", lambda name, command, log, environment: noted.append((command, environment)))
    overrides = [f"runs_dir={folder}", "experiment_name=e", "trial_name=t", *settings]
    plan = compose.make_plan([], overrides, len(nvidia.ours()))
    readiness.choose_gpus(plan)
    run = Run.create(plan.run_dir)
    compose.write(plan, run.config)
    processes.RunProcesses(plan, run).start_trainers()
    ((command, environment),) = noted
    assert command[1:3] == ["-m", "areal_gsm8k.training.areal_launcher"]
    return command[3:], environment


def calls(folder: Path) -> dict[str, dict]:
    noted = [json.loads(line) for line in (folder / "calls").read_text().splitlines()]
    assert len(noted) == 2
    return {Path(call["program"]).name: call for call in noted}


@pytest.mark.parametrize("name", MACHINES)
def test_server_and_trainer_get_their_gpus(seen, name):
    _, called, servers, _ = seen[name]
    for_server, for_trainer = MACHINES[name][3:]
    assert called["python3"]["gpus"] == for_server
    assert called["torchrun"]["gpus"] == for_trainer
    assert called["torchrun"]["servers"] == "10.0.0.1:23"
    assert [server["gpu"] for server in servers] == list(range(len(for_server.split(","))))  # counted from its first
    assert all(10_000 <= server["port"] <= 32_767 for server in servers)


def test_paths_may_hold_spaces(seen):
    folder, called, *_ = seen["one GPU"]
    config_file = str(folder / "e" / "t" / "config.yaml")
    assert " " in config_file
    for program in ("python3", "torchrun"):
        arguments = called[program]["arguments"]
        assert arguments[arguments.index("--config") + 1] == config_file
    logs = {file.name for file in (folder / "e" / "t" / "areal" / "logs").rglob("*.log")}
    assert logs == {"llm_server.log", "trainer.log"}


def test_the_log_closes_with_the_words_of_the_job_that_ended_first(seen):
    for _, _, _, said in seen.values():
        first, *rest = said.splitlines()
        assert re.match(r"The (rollout server|trainer) ended first. Its log, .*/(llm_server|trainer).log, ends:", first)
        assert "the words of" in "".join(rest)


# A wrapper as AReaL's, which waits and does not look at its server, and a launcher that watches it for two seconds.
WATCHING = """
import subprocess, sys, threading
from areal_gsm8k.training import areal_launcher

areal_launcher.WATCH_SECONDS = 0.1
start = "import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', sys.argv[2]]); time.sleep(60)"
start = start if sys.argv[1] else "import no_such_server"
wrapper = subprocess.Popen([sys.executable, "-c", start, areal_launcher.WRAPPERS[0], sys.argv[1]])
done = threading.Event()
threading.Timer(2, done.set).start()
areal_launcher.watch_servers(done)
print("still there")
for process in areal_launcher.psutil.Process().children(recursive=True):
    process.kill()
"""


@pytest.mark.parametrize(
    ("server", "code", "said"),
    [
        ("pass", 1, "The rollout server ended while it started"),
        ("", 1, "The rollout server ended while it started"),
        ("import time; time.sleep(60)", 0, "still there"),
    ],
    ids=["it ended", "its wrapper ended", "it starts"],
)
def test_a_server_that_died_while_it_started_ends_the_launch(server, code, said):
    done = subprocess.run(
        [sys.executable, "-c", WATCHING, server], capture_output=True, text=True, timeout=300, cwd=PROJECT
    )
    assert done.returncode == code, done.stderr
    assert said in done.stdout
