"""GRPO runs as they lie on disk, made up, and their page taken apart: what the tests of the report share."""

import json
import random
from html.parser import HTMLParser
from pathlib import Path

from made_runs import HEALTHY

from areal_gsm8k.report import page
from areal_gsm8k.runs.files import append_lines, to_lines, write_atomically
from areal_gsm8k.runs.run import Run

CONFIG = """
answer_format: hash
actor: {path: MODEL, optimizer: {lr: 0.0003}}
allocation_mode: embedded:d1p1t1+fsdp:d1p1t1
data: {train_rows: 1920, dev_rows: 4}
train_dataset: {path: generated, batch_size: 2, split: train}
valid_dataset: {path: generated, split: dev}
gconfig: {n_samples: 4, temperature: 1.0, max_new_tokens: 48}
eval_gconfig: {n_samples: 1, greedy: true, temperature: 1.0, max_new_tokens: 48}
reward: {accuracy: 1.0, shuffled: false}
seed: 1
stats_logger: {wandb: {mode: disabled, wandb_api_key: sk-very-secret}}
"""
PAYLOADS = (
    '</script><script>document.title="owned"</script>',
    '<img src=x onerror=document.title="owned">',
    "{{7*7}}{% raw %}",
    "a\u2028b\u2029c]]>-->",
)
TEXT = "She sells the remaining eggs at 2 dollars each so we multiply and then add what is left over from the day"


def question(number: int) -> str:
    return f"Question {number}: Ana has {number} eggs. How many?"


def sample(step: int, group: int, member: int, **more) -> dict:
    """Even members are right; member 3 is cut off. Rewards of group 1 are all equal."""
    right = member % 2 == 0
    return {
        "id": 100 * step + 10 * group + member,
        "row": f"train-{step}-{group}",
        "question": question(10 * step + group),
        "reference": f"steps\n#### {group}",
        "completion": f"step {step} group {group} member {member}\n#### {group if right else 99}",
        "completion_tokens": 20 + member,
        "truncated": member == 3,
        "versions": [step - 1],
        "extracted": str(group if right else 99),
        "rule": "hash",
        "lenient": right,
        "strict": right,
        "formatted": True,
        "parts": {"accuracy": float(right)},
        "reward": float(right) if group != 1 else 0.0,
        "group": f"0-{group}",
        "advantage": (0.5 if right else -0.5) if group != 1 else 0.0,
        "logprob_drift": 0.00123456789,
    } | more


def dev_rows(right: str, text: str = "an answer") -> list[dict]:
    """One greedy answer an item: `R` right, `W` wrong."""
    return [
        {
            "row": f"dev-{at}", "question": question(at), "reference": "steps\n#### 1", "completion": f"{text} {at}",
            "extracted": "1" if letter == "R" else "2", "rule": "hash", "lenient": letter == "R",
            "strict": letter == "R", "formatted": True, "truncated": False, "completion_tokens": 20,
        }
        for at, letter in enumerate(right)
    ]  # fmt: skip


def metrics(step: int, **more) -> dict:
    own = {"step": step, "epoch": 1, "reward/accuracy": 0.1 * step, "clip_ratio": 0.0, "time/rollout": 0.5}
    own |= {"time/logprobs": 0.3, "time/advantages": 0.1, "time/train": 1.0, "time/update_weights": 0.1}
    own |= dict.fromkeys(("reward", "accuracy", "accuracy_strict"), 0.1 * step)
    own |= {"groups": 2, "groups_without_signal": 0.5, "truncated": 0.25, "completion_tokens": 21.5}
    return HEALTHY | own | more


def dev_metrics(right: str) -> dict:
    share = right.count("R") / len(right)
    return {"dev/accuracy": share, "dev/accuracy_strict": share, "dev/format_rate": 1.0, "dev/truncated": 0.0,
            "dev/completion_tokens": 20.0, "dev/errors": 0, "dev/n": len(right)}  # fmt: skip


def make_run(root: Path, steps: int = 4, evaluated: dict[int, str] | None = None, model: str = "a/model") -> Run:
    """A run of so many steps, two groups of four each, with dev evaluations after the steps given."""
    run = Run(root)
    evaluated = {0: "RWWW", steps: "WRRW"} if evaluated is None else evaluated
    write_atomically(run.config, CONFIG.replace("MODEL", json.dumps(model)))
    for step, right in evaluated.items():
        write_atomically(run.evaluation(step), to_lines(dev_rows(right, f"after step {step}:")))
    rows = [{"step": 0} | dev_metrics(evaluated[0])] if 0 in evaluated else []
    dev = {step: dev_metrics(right) for step, right in evaluated.items()}
    rows += [metrics(step, **dev.get(step, {})) for step in range(1, steps + 1)]
    append_lines(run.metrics, rows)
    for step in range(1, steps + 1):
        write_atomically(run.samples(step), to_lines(sample(step, g, m) for g in range(2) for m in range(4)))
    append_lines(run.launches, [{"command": "./run train seed=1", "time": 1795279631.0, "step": 0, "spent": 0.0}])
    run.set_status("finished")
    return run


def make_hostile_run(root: Path) -> Run:
    """A run in which every text that others wrote is a payload, its name too."""
    run = make_run(root / PAYLOADS[0].replace("/", "_"), steps=1, model=" ".join(PAYLOADS))
    rows = [sample(1, 0, at, question=PAYLOADS[at], completion=PAYLOADS[at], extracted=PAYLOADS[at]) for at in range(4)]
    write_atomically(run.samples(1), to_lines(rows))
    for step, right in ((0, "RWWW"), (1, "WRRW")):
        rows = [row | {"completion": PAYLOADS[at], "question": PAYLOADS[at]} for at, row in enumerate(dev_rows(right))]
        write_atomically(run.evaluation(step), to_lines(rows))
    return run


def long_text(chance: random.Random, words: int = 160) -> str:
    """As compressible as a worked solution: common words, other numbers each time."""
    common = TEXT.split()
    drawn = (chance.choice(common) if chance.random() < 0.8 else str(chance.randrange(1000)) for _ in range(words))
    return " ".join(drawn)


class Parsed(HTMLParser):
    """Scripts, ids, attributes and visible text of a page."""

    def __init__(self, html: str):
        super().__init__()
        self.scripts, self.ids, self.attributes, self.text, self.stack = [], [], [], [], []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.stack.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        self.ids += [value for name, value in attrs if name == "id"]
        if tag == "script":
            self.scripts.append([dict(attrs), ""])

    def handle_endtag(self, tag):
        while self.stack and self.stack.pop() != tag:
            pass

    def handle_data(self, data):
        if self.stack and self.stack[-1] == "script":
            self.scripts[-1][1] += data
        elif not (self.stack and self.stack[-1] == "style"):
            self.text.append(data)

    def said(self) -> str:
        return " ".join(" ".join(self.text).split())

    def data(self) -> dict:
        return json.loads(next(code for attributes, code in self.scripts if attributes.get("id") == "data"))


def parsed(*runs: Run, out: Path | None = None) -> Parsed:
    out = out or runs[0].report
    page.write([run.root for run in runs], out)
    return Parsed(out.read_text(encoding="utf-8"))
