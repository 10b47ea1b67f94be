"""AReaL's local launcher as a child that takes its servers and trainers along when the run's own launcher is gone.

python -m areal_gsm8k.training.areal_launcher train_grpo.py --config runs/x/y/config.yaml

Four repairs. AReaL puts its own arguments and its logs' names into shell commands; here they are quoted, so that paths
may hold spaces. AReaL refuses a name-resolve folder that does not exist yet, though AReaL itself would make one; here
the folder is made first. AReaL waits 20 minutes for a server that died while it started; here that ends the launch.
And when a job ends, AReaL ends the others and raises that job's name; here the log closes with its own last words.
"""

import contextlib
import os
import shlex
import sys
import threading
from pathlib import Path

import psutil

from areal_gsm8k.children import die_with_parent, last_words
from areal_gsm8k.training import areal_contract

WATCH_SECONDS = 1.0
NAMES = {"llm_server": "The rollout server", "trainer": "The trainer"}  # of AReaL's jobs
WRAPPERS = ("areal.infra.launcher.sglang_server", "areal.infra.launcher.vllm_server")  # each waits for its servers


def main() -> None:
    die_with_parent(take_children=True)
    areal_contract.refuse_another_areal()
    from areal.api.cli_args import parse_cli_args
    from areal.infra.launcher import local
    from areal.infra.utils.launcher import JobException

    logs = {}

    class QuotingLauncher(local.LocalLauncher):
        def log_path_of(self, job_name: str) -> str:
            logs[job_name] = Path(super().log_path_of(job_name))
            return shlex.quote(str(logs[job_name]))

    wait = local.wait_llm_server_addrs

    def wait_watching(*args, **kwargs) -> list[str]:
        done = threading.Event()
        threading.Thread(target=watch_servers, args=(done,), name="server-watch", daemon=True).start()
        try:
            return wait(*args, **kwargs)
        finally:
            done.set()

    local.LocalLauncher, local.wait_llm_server_addrs = QuotingLauncher, wait_watching
    config, _ = parse_cli_args(sys.argv[1:])
    sys.argv = [shlex.quote(argument) for argument in sys.argv]
    Path(config.cluster.name_resolve.nfs_record_root).mkdir(parents=True, exist_ok=True)
    try:
        local.local_main(config)
    except JobException as ended:
        job = ended.worker_type
        sys.exit(f"{NAMES.get(job, job)} ended first. {last_words(logs[job])}")


def watch_servers(done: threading.Event) -> None:
    """Until `done`: end this process and its children when a server has died. The log then ends with that server's."""
    while not has_dead_server(psutil.Process()):
        if done.wait(WATCH_SECONDS):
            return
    print("The rollout server ended while it started: its own words are above.", flush=True)
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    os._exit(1)


def has_dead_server(launcher: psutil.Process) -> bool:
    """Whether one of AReaL's wrappers has ended, or one among the descendants has a dead child: it starts only servers.

    Asked while the launcher waits for its servers, so every job it has is a wrapper in a shell.
    """
    if any(job.status() == psutil.STATUS_ZOMBIE for job in launcher.children()):
        return True
    for process in launcher.children(recursive=True):
        with contextlib.suppress(psutil.Error):  # gone, or going
            if set(WRAPPERS) & set(process.cmdline()):
                return any(child.status() == psutil.STATUS_ZOMBIE for child in process.children())
    return False


if __name__ == "__main__":
    main()
