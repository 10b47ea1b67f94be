"""What completions are paid: the parts, their composition, and the user's own function.

python -m pytest tests/grading/test_rewards.py
"""

import os
import signal
import threading
from dataclasses import fields
from types import SimpleNamespace

import pytest

from areal_gsm8k.grading import rewards
from areal_gsm8k.grading.custom_reward import RewardError, RewardProcesses
from areal_gsm8k.grading.rewards import Reward, Sample
from areal_gsm8k.paths import PROJECT
from areal_gsm8k.settings import RewardSettings
from math_parser import grade

RIGHT, WRONG, NONE = (grade(text, "18", "boxed") for text in (r"\boxed{18}", r"\boxed{19}", "no idea"))


def settings(**keys):
    return SimpleNamespace(**keys)


def sample(verdict=RIGHT, tokens=100, **more):
    return Sample("text", verdict, tokens, **more)


def test_accuracy_format_and_ternary():
    assert [rewards.accuracy(v) for v in (RIGHT, WRONG, NONE)] == [1, 0, 0]
    assert [rewards.format_followed(v) for v in (RIGHT, WRONG, NONE)] == [1, 1, 0]
    assert [rewards.ternary(v, truncated=False) for v in (RIGHT, WRONG, NONE)] == [1, 0, -1]
    assert [rewards.ternary(v, truncated=True) for v in (RIGHT, WRONG, NONE)] == [-1, -1, -1]


@pytest.mark.parametrize(("tokens", "expected"), [(100, 0), (50, -0.5), (150, -0.5), (0, -1), (200, -1), (999, -1)])
def test_length_falls_with_the_distance_from_the_target(tokens, expected):
    assert rewards.length(tokens, target=100) == expected


@pytest.mark.parametrize(("tokens", "expected"), [(0, 0), (384, 0), (448, -0.5), (512, -1), (600, -1)])
def test_overlong_is_equation_13_of_dapo(tokens, expected):
    assert rewards.overlong(tokens, limit=512, buffer=128) == expected


@pytest.mark.parametrize(
    ("completion", "expected"),
    [
        ("<think>a</think>b", 1),
        ("\n<think>\na\nb\n</think>\n\nc", 1),
        ("<think></think>b", 0),
        ("<think>a</think> ", 0),
        ("a</think>b", 0),
        ("x <think>a</think>b", 0),
        ("<think>a</think>b</think>c", 0),
        ("<think><think>a</think>b", 0),
        ("b", 0),
    ],
)
def test_think_tags(completion, expected):
    assert rewards.think_tags(completion) == expected


def test_parts_in_use_are_told_apart_from_their_weights():
    reward = Reward.from_settings(settings(accuracy=1.0, format=0.2, overlong=0.5, overlong_buffer=50), 120)
    parts = reward.parts(sample(tokens=95))
    assert parts == {"accuracy": 1, "format": 1, "overlong": -0.5}
    assert reward.weights() == {"accuracy": 1.0, "format": 0.2, "overlong": 0.5}
    assert reward.total(parts) == pytest.approx(0.95)
    assert reward.total(reward.parts(sample(NONE, tokens=10))) == 0


def test_every_part_can_be_switched_on():
    weights = dict.fromkeys(("accuracy", "format", "ternary", "length", "overlong", "think"), 1.0)
    reward = Reward.from_settings(settings(**weights, length_target=100), 512)
    assert reward.parts(sample()) == {
        "accuracy": 1, "format": 1, "ternary": 1, "length": 0, "overlong": 0, "think": 0
    }  # fmt: skip
    assert reward.weights() == weights


def test_every_part_has_its_keys_and_its_place_in_the_documentation():
    keys = {key for name, part in rewards.PARTS.items() for key in (name, *part.keys)}
    own = {"shuffled", "custom_seconds", "custom_processes"}
    assert keys | own == {field.name for field in fields(RewardSettings)} and not keys & own
    table = (PROJECT / "docs" / "reward.md").read_text(encoding="utf-8")
    assert [name for name in rewards.PARTS if f"| `{name}" not in table] == []


@pytest.mark.parametrize("name", rewards.WEIGHTED)
def test_no_part_leaves_its_range(name):
    reward = Reward(RewardSettings(**{"accuracy": 0.0, name: 1.0}))
    low, high = rewards.PARTS[name].ends
    samples = [
        Sample(text, verdict, tokens, truncated)
        for text in ("text", "<think>a</think>b")
        for verdict in (RIGHT, WRONG, NONE)
        for tokens in (0, 256, 384, 512, 5000)
        for truncated in (False, True)
    ]
    paid = {reward.parts(one)[name] for one in samples}
    assert (min(paid), max(paid)) == (low, high)


def test_a_bound_that_cannot_be_meant_names_its_key():
    with pytest.raises(ValueError, match=r"reward.length_target is 0"):
        Reward.from_settings(settings(length=1.0, length_target=0), 512)
    with pytest.raises(ValueError, match=r"reward.overlong_buffer is 600; it must lie between 1 and .*, 512"):
        Reward.from_settings(settings(overlong=1.0, overlong_buffer=600), 512)


def test_a_reference_that_cannot_be_read_is_an_error_and_not_wrong():
    with pytest.raises(RewardError, match="not gradable: the reference holds no single number"):
        Reward().parts(sample(grade("18", "no number")))
    with pytest.raises(RewardError, match="not gradable"):
        Reward().parts(sample(grade("18", "")))


FUNCTIONS = """
import os, subprocess, sys, time
print("printing is no answer")
def count(prompt, completion, prompt_ids, completion_ids, answer, **row):
    print(completion)
    return len(completion_ids) + (completion == answer) / 2
def misbehave(prompt, completion, prompt_ids, completion_ids, **row):
    if completion == "raise": raise ValueError("no such thing")
    if completion == "hang":
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        open(row["pids"], "w").write(f"{os.getpid()} {child.pid}")
        while True: pass
    if completion == "exit": os._exit(3)
    if completion == "nan": return float("nan")
    if completion == "text": return "1.0"
    return os.getpid()
"""


@pytest.fixture(scope="module")
def module(tmp_path_factory):
    """Folder of a module `mine` that worker processes can import."""
    folder = tmp_path_factory.mktemp("reward")
    (folder / "mine.py").write_text(FUNCTIONS)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        yield folder


def test_a_function_by_import_path_is_a_part(module):
    reward = Reward.from_settings(
        settings(accuracy=1.0, custom="mine:count", custom_weight=0.5, custom_seconds=30, custom_processes=1), 512
    )
    parts = reward.parts(sample(completion_ids=(7, 8, 9), data={"answer": "text", "question": "q"}))
    reward.close()
    assert parts == {"accuracy": 1, "custom": 3.5}
    assert reward.weights() == {"accuracy": 1.0, "custom": 0.5}
    assert reward.total(parts) == 2.75


def test_a_function_that_misbehaves_is_an_error_and_the_next_call_works(module, tmp_path):
    processes = RewardProcesses("mine:misbehave", seconds=30, count=1)
    row = {"pids": str(tmp_path / "pids")}
    first = processes.score("", "", [], [], row)
    for completion, message in [
        ("raise", "mine:misbehave raised ValueError: no such thing"),
        ("nan", "returned nan, which is no finite number"),
        ("text", "returned '1.0', which is no finite number"),
    ]:
        with pytest.raises(RewardError, match=message):
            processes.score("", completion, [], [], row)
    assert processes.score("", "", [], [], row) == first  # the process lives on
    with pytest.raises(RewardError, match="ended its process with code 3"):
        processes.score("", "exit", [], [], row)
    second = processes.score("", "", [], [], row)
    assert second != first
    processes.seconds = 1.0
    with pytest.raises(RewardError, match="did not return within 1 s; its process was killed"):
        processes.score("", "hang", [], [], row)
    processes.seconds = 30
    assert processes.score("", "", [], [], row) not in (first, second)
    if os.name == "posix":  # the hung process and the one that it had started
        import psutil

        for pid in map(int, (tmp_path / "pids").read_text().split()):
            assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    processes.close()


def test_threads_share_the_processes(module):
    processes = RewardProcesses("mine:count", seconds=30, count=2)
    scores = {}
    threads = [
        threading.Thread(target=lambda n=n: scores.update({n: processes.score("", "", [], [0] * n, {"answer": "x"})}))
        for n in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    processes.close()
    assert scores == {n: n for n in range(8)}


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("mine:nothing", "reward.custom='mine:nothing' cannot be loaded: AttributeError"),
        ("no_such_module:fn", "cannot be loaded: ModuleNotFoundError"),
        ("mine.count", "write module:function"),
    ],
)
def test_a_function_that_cannot_be_loaded_is_told_at_once(module, path, message):
    with pytest.raises(RewardError, match=message):
        RewardProcesses(path, seconds=30, count=1)


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs POSIX signals")
def test_a_process_killed_from_outside_is_an_error_and_replaced(module):
    processes = RewardProcesses("mine:misbehave", seconds=30, count=1)
    pid = processes.score("", "", [], [], {})
    os.kill(int(pid), signal.SIGKILL)
    with pytest.raises(RewardError, match=r"ended its process|its process is gone"):
        processes.score("", "", [], [], {})
    assert processes.score("", "", [], [], {}) != pid
    processes.close()
