"""How fast and how right the grader is, side by side with math-verify in one run.

python benchmarks/grader.py --data ../shared/gsm8k
python benchmarks/grader.py --data ../shared/gsm8k --rows 200     (quicker)

Three tables: completions a second and latency over GSM8K's gold solutions dressed in five answer forms; the cases of
tests/grading/conformance that each of the two loses; the slowest and largest of the attacks of `gsm8k reward attack`.
Throughput is of CPU time on one thread, so that other work on the machine weighs less. math-verify keeps its default
time-outs, which are signals and need the main thread.
"""

import argparse
import gc
import json
import logging
import platform
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import yaml
from rich.console import Console
from rich.table import Table

from areal_gsm8k.grading import attacks
from areal_gsm8k.grading.other_graders import math_verify, ours
from math_parser import GRADER_VERSION, grade

CONFORMANCE = Path(__file__).parent.parent / "tests" / "grading" / "conformance"
FORMS = {
    "boxed": "{work}So the answer is $\\boxed{{{answer}}}$.",
    "tags": "<think>\n{work}</think>\n<answer>{answer}</answer>",
    "hash": "{work}#### {answer}",
    "sentence": "{work}The answer is {answer}.",
    "last number": "{work}So there are {answer} in all.",
}
ROUNDS, CHUNK = 10, 250  # a chunk of so many completions counts with its best round, a latency with its own best


def dressed(data: Path, rows: int | None) -> dict[str, list[tuple[str, str]]]:
    """(completion, reference) of every gold solution, by answer form."""
    golds = []
    for split in ("train", "test"):
        with (data / f"{split}.jsonl").open(encoding="utf-8") as lines:
            golds += [json.loads(line)["answer"].rpartition("####") for line in lines]
    step = 1 if rows is None else max(1, len(golds) // rows)
    return {
        name: [(form.format(work=work, answer=answer.strip()), answer.strip()) for work, _, answer in golds[::step]]
        for name, form in FORMS.items()
    }


def measure(
    judge: Callable[[str, str], object], texts: list[tuple[str, str]], rounds: int
) -> tuple[float, list[float]]:
    """Completions a CPU second, and each completion's wall time in seconds, ascending."""
    chunks = [texts[start : start + CHUNK] for start in range(0, len(texts), CHUNK)]
    best, latencies = [float("inf")] * len(chunks), [float("inf")] * len(texts)
    gc.collect()
    for _ in range(rounds):
        for index, chunk in enumerate(chunks):
            began = time.process_time()
            for completion, reference in chunk:
                judge(completion, reference)
            best[index] = min(best[index], time.process_time() - began)
        for index, (completion, reference) in enumerate(texts):
            began = time.perf_counter()
            judge(completion, reference)
            latencies[index] = min(latencies[index], time.perf_counter() - began)
    return len(texts) / sum(best), sorted(latencies)


def speed(data: Path, rows: int | None, peer_rows: int, console: Console) -> None:
    table = Table("form", "grader", "n", "completions/s", "p50 ms", "p99 ms", "max ms", "lost")
    ours_by_form, peers_by_form = dressed(data, rows), dressed(data, peer_rows)
    for form in FORMS:
        for name, judge, texts, rounds in (
            ("ours", grade, ours_by_form[form], ROUNDS),
            ("math-verify", math_verify, peers_by_form[form], 1),
        ):
            a_second, latencies = measure(judge, texts, rounds)
            right = ours if judge is grade else math_verify
            lost = sum(not right(completion, reference) for completion, reference in texts)
            p50, p99 = (latencies[int(share * (len(latencies) - 1))] for share in (0.5, 0.99))
            numbers = [f"{1000 * seconds:.4f}" for seconds in (p50, p99, latencies[-1])]
            table.add_row(form, name, f"{len(texts):,}", f"{a_second:,.0f}", *numbers, f"{lost:,}")
    console.print(table)


def conformance(console: Console) -> None:
    table = Table("group", "cases", "ours lost", "math-verify lost")
    beaten, total = [], [0, 0, 0]
    for file in sorted(CONFORMANCE.glob("*.yaml")):
        for group, cases in yaml.safe_load(file.read_text(encoding="utf-8")).items():
            counts = [len(cases), 0, 0]
            for text, reference, label, why in cases:
                completion = f"So it is \\boxed{{{text}}}, of 9." if file.stem == "values" else text
                we, they = (judge(completion, reference) == (label == "right") for judge in (ours, math_verify))
                counts[1] += not we
                counts[2] += not they
                if they and not we:
                    beaten.append((completion, reference, why))
            total = [sum(pair) for pair in zip(total, counts, strict=True)]
            table.add_row(group, *map(str, counts))
    table.add_row("all", *map(str, total), style="bold")
    console.print(table)
    console.print(f"cases that math-verify has right and we have wrong: {len(beaten)}")
    for case in beaten:
        console.print(*map(repr, case), highlight=False, markup=False)


def hostile(console: Console) -> None:
    """The attacks through `grade`, twice: for CPU time, then for the peak of allocated memory."""
    texts = [attack.completion for attack in attacks.attacks()]
    slowest = largest = 0.0
    for text in texts:
        began = time.thread_time()
        grade(text, attacks.GOLD)
        slowest = max(slowest, time.thread_time() - began)
    tracemalloc.start()
    for text in texts:
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        grade(text, attacks.GOLD)
        largest = max(largest, tracemalloc.get_traced_memory()[1] - before)
    tracemalloc.stop()
    console.print(f"{len(texts)} attacks: slowest {1000 * slowest:.1f} ms, largest {largest / 1e6:.1f} MB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with GSM8K's train.jsonl and test.jsonl")
    parser.add_argument("--rows", type=int, help="gold solutions for ours (default: all 8,792)")
    parser.add_argument("--peer-rows", type=int, default=200, help="gold solutions a form for math-verify")
    options = parser.parse_args()
    logging.disable(logging.WARNING)  # math-verify tells of every text it cannot parse
    console = Console(width=100)
    console.print(f"grader {GRADER_VERSION}, Python {platform.python_version()}, {platform.machine()}", highlight=False)
    speed(options.data, options.rows, options.peer_rows, console)
    conformance(console)
    hostile(console)


if __name__ == "__main__":
    main()
