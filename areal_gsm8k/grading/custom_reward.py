"""A user's own reward function, in processes that can be killed: one that raises, hangs or crashes gives no score.

`RewardProcesses("my_module:my_fn", seconds=10, count=2)` is behind `reward.custom` and `gsm8k reward attack`. The
function has AReaL's signature (areal/api/reward_api.py) and returns a finite number:

    def my_fn(prompt, completion, prompt_ids, completion_ids, **row): ...

`python -m areal_gsm8k.grading.custom_reward my_module:my_fn` is such a process: it answers each JSON line with one JSON
line. multiprocessing is not used: its children import the caller's main module again, and that may be AReaL's trainer.
"""

import contextlib
import importlib
import json
import math
import os
import queue
import signal
import subprocess
import sys
import threading
import traceback
from typing import Any

START_SECONDS = 120  # to start Python and import the user's module, which may load a model


class RewardError(RuntimeError):
    """A reward could not be computed. It is never a wrong answer; the workflow counts it and drops the group."""


class RewardProcesses:
    """`count` processes that each hold the function. Safe in threads; a call waits for an idle process."""

    def __init__(self, path: str, seconds: float, count: int):
        """Starts one process, so that a function that cannot be loaded is a RewardError at once."""
        if path.count(":") != 1 or seconds <= 0 or count < 1:
            raise RewardError(
                f"reward.custom={path!r}, custom_seconds={seconds}, custom_processes={count}: "
                "write module:function, a positive time and at least one process"
            )
        self.path, self.seconds = path, seconds
        self._idle: queue.LifoQueue[_Process | None] = queue.LifoQueue()  # None: a process not started yet
        for _ in range(count - 1):
            self._idle.put(None)
        self._idle.put(_Process(path))

    def score(self, prompt: str, completion: str, prompt_ids, completion_ids, row: dict[str, Any]) -> float:
        """The function's reward of one completion.

        Raises RewardError when the function raises, exceeds `seconds`, ends its process or returns no finite number. A
        process that did not answer is killed with its children, and the next call starts another.
        """
        process = self._idle.get()
        try:
            process = process or _Process(self.path)
            answer = process.ask([prompt, completion, list(prompt_ids), list(completion_ids), row], self.seconds)
        except RewardError:
            if process:
                process.kill()
            process = None
            raise
        finally:
            self._idle.put(process)
        if "error" in answer:
            raise RewardError(f"{self.path} raised {answer['error']}")
        reward = answer["reward"]
        if isinstance(reward, bool | int | float) and math.isfinite(reward):
            return float(reward)
        raise RewardError(f"{self.path} returned {reward!r}, which is no finite number")

    def close(self) -> None:
        """Kill the idle processes."""
        with contextlib.suppress(queue.Empty):
            while True:
                if process := self._idle.get_nowait():
                    process.kill()


class _Process:
    def __init__(self, path: str):
        self.path = path
        self.popen = subprocess.Popen(
            [sys.executable, "-m", "areal_gsm8k.grading.custom_reward", path],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "PYTHONIOENCODING": "utf-8"},
            encoding="utf-8",
            start_new_session=True,
        )
        assert self.popen.stdin and self.popen.stdout  # both are pipes
        self.questions, self.answers = self.popen.stdin, self.popen.stdout
        try:
            started = self._answer(START_SECONDS, "did not start")
            if "error" in started:
                raise RewardError(f"reward.custom={path!r} cannot be loaded: {started['error']}")
        except RewardError:
            self.kill()
            raise

    def ask(self, arguments: list, seconds: float) -> dict:
        try:
            self.questions.write(json.dumps(arguments, default=str) + "\n")
            self.questions.flush()
        except OSError as error:
            raise RewardError(f"{self.path}: its process is gone ({error})") from None
        return self._answer(seconds, "did not return")

    def _answer(self, seconds: float, missed: str) -> dict:
        late = threading.Event()

        def stop() -> None:
            late.set()
            self.kill()

        timer = threading.Timer(seconds, stop)
        timer.start()
        line = self.answers.readline()  # ends when the process does
        timer.cancel()
        if late.is_set():
            raise RewardError(f"{self.path} {missed} within {seconds:g} s; its process was killed")
        if not line.endswith("\n"):
            raise RewardError(f"{self.path} ended its process with code {self.popen.wait()}")
        return json.loads(line)

    def kill(self) -> None:
        """End the process and, where there are sessions, everything it started."""
        if os.name == "posix":
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.popen.pid, signal.SIGKILL)
        else:
            self.popen.kill()
        self.popen.wait()


def serve(path: str) -> None:
    """The process's side: load the function, then answer until standard input ends."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what the user's function prints goes to standard error
    try:
        module, name = path.split(":")
        function = getattr(importlib.import_module(module), name)
        say(answers, {})
    except BaseException as failure:
        say(answers, {"error": "".join(traceback.format_exception_only(failure)).strip()})
        return
    for line in sys.stdin:
        prompt, completion, prompt_ids, completion_ids, row = json.loads(line)
        try:
            reward = function(prompt, completion, prompt_ids, completion_ids, **row)
            item = getattr(reward, "item", None)  # a tensor or array of one number
            say(answers, {"reward": item() if item else reward})
        except Exception as failure:
            say(answers, {"error": "".join(traceback.format_exception_only(failure)).strip()})


def say(answers, answer: dict) -> None:
    answers.write(json.dumps(answer, default=repr) + "\n")
    answers.flush()


if __name__ == "__main__":
    from areal_gsm8k.children import PARENT, die_with_parent

    os.environ.setdefault(PARENT, str(os.getppid()))
    die_with_parent()
    serve(sys.argv[1])
