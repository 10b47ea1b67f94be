"""A process that has imported AReaL and makes every run of the tests from copies of itself: `runner.py` starts it.

AReaL's import takes about ten seconds of a core, and a run starts two or three processes that need it or half of it. A
copy (fork) has it at once. Copies are made while nothing but imports has happened: one Python thread, none of torch's,
which `single_threaded` checks. A run's launcher makes the copies for its own children first, so these too are clean,
and they are its children in every way: signals, exit codes, death with the parent.

Settings read during imports are those of this process; everything else comes with a request. What must not depend on
this file is started with `cold=True` (runner.py).
"""

import gc
import json
import os
import random
import runpy
import select
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy
import setproctitle

CHILDREN = 4  # two trainers and two servers, or one each and restarts; further ones start as without this file
ANSWER_SECONDS = 0.05


def single_threaded() -> bool:
    """True but for the thread of pyarrow's memory allocator, which looks after itself in a fork."""
    names = [(task / "comm").read_text().strip() for task in Path("/proc/self/task").iterdir()]
    return len([name for name in names if name != "jemalloc_bg_thd"]) == 1


def send(to: socket.socket, job: dict, files: list[int]) -> None:
    """A job is {command, environment, folder, session}; files are its standard input, output and errors."""
    text = json.dumps(job).encode()
    socket.send_fds(to, [len(text).to_bytes(4, "big")], files)
    to.sendall(text)


def receive(source: socket.socket) -> tuple[dict, list[int]] | None:
    """The next job; None when the other side is gone."""
    length, files, _, _ = socket.recv_fds(source, 4, 4)
    if not length:
        return None
    text = b""
    while len(text) < int.from_bytes(length, "big"):
        text += source.recv(65536)
    return json.loads(text), files


def run(job: dict, files: list[int]) -> None:
    """Become the program of a job, `python -m MODULE ...` or `python SCRIPT ...`; ends as that program ends."""
    if job["session"]:
        os.setsid()
    for number, file in enumerate(files):
        os.dup2(file, number)
    for file in files:
        os.close(file)
    os.environ.clear()
    os.environ.update(job["environment"])
    os.chdir(job["folder"])
    sys.stdout.reconfigure(line_buffering=True)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    setproctitle.setproctitle(" ".join(job["command"]))
    random.seed()
    numpy.random.seed()
    _, *arguments = job["command"]
    if arguments[0] == "-m":
        sys.argv = arguments[1:]
        runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
    else:
        sys.path[0] = str(Path(arguments[0]).resolve().parent)
        sys.argv = arguments
        runpy.run_path(arguments[0], run_name="__main__")


def launch(job: dict, files: list[int]) -> None:
    """Run a launcher whose children are copies, made now; in each of those, run what it is asked to be."""
    waiting: list[tuple[int, socket.socket]] = []
    for _ in range(CHILDREN):
        ours, theirs = socket.socketpair()
        if pid := os.fork():
            theirs.close()
            waiting.append((pid, ours))
            continue
        for _, other in waiting:
            other.close()
        ours.close()
        for file in files:
            os.close(file)
        request = receive(theirs)
        if request is None:
            os._exit(0)
        theirs.close()
        run(*request)
        return

    class Popen(subprocess.Popen):
        """Python's own, except that a copy becomes the program, while there is one and the program is Python's."""

        def _execute_child(self, command, *rest):
            environment, pipes, session = rest[5], rest[9:15], rest[-2]
            files = [pipes[0], pipes[3], pipes[5]]  # the child's ends
            if not waiting or list(command[:2]) != [sys.executable, "-m"] or -1 in files or not environment:
                super()._execute_child(command, *rest)
                return
            self.pid, copy = waiting.pop(0)
            self._child_created = True
            job = {"command": command, "environment": environment, "folder": os.getcwd(), "session": session}
            send(copy, job, files)
            copy.close()
            self._close_pipe_fds(*pipes)

    subprocess.Popen = Popen
    run(job, files)


def main() -> None:
    """Take jobs from the socket of the given number; write each one's pid and later its exit code to a pipe."""
    tests = str(Path(__file__).parent)
    sys.path = [os.getcwd(), *(entry for entry in sys.path if entry != tests)]

    import areal_gsm8k.cli
    import areal_gsm8k.launch.train
    import areal_gsm8k.serve.api
    import areal_gsm8k.serve.engine
    import areal_gsm8k.serve.worker
    import areal_gsm8k.training.trainer
    import areal_gsm8k.training.workflow  # noqa: F401

    setproctitle.getproctitle()  # it must find the environment where it was
    gc.freeze()  # or every copy's collector copies all of it
    assert single_threaded(), "an import started a thread: a copy of this process would not be sound"
    control = socket.socket(fileno=int(sys.argv[1]))
    running: dict[int, int] = {}
    while True:
        for pid in list(running):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                os.write(running[pid], f"{os.waitstatus_to_exitcode(status)}\n".encode())
                os.close(running.pop(pid))
        if not select.select([control], [], [], ANSWER_SECONDS)[0]:
            continue
        request = receive(control)
        if request is None:
            break
        job, (*files, report) = request
        if pid := os.fork():
            os.write(report, f"{pid}\n".encode())
            running[pid] = report
            for file in files:
                os.close(file)
            continue
        control.close()
        for file in [report, *running.values()]:
            os.close(file)
        launch(job, files)
        return
    for pid in running:
        os.kill(pid, signal.SIGKILL)


if __name__ == "__main__":
    main()
