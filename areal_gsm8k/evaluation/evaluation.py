"""One model on one set of items: generate the missing completions, grade and record each, write the card.

settings = EvaluationSettings(answer_format="hash")
evaluate("runs/tiny-grpo/1", items.load("generated", "dev"), settings, "runs/evaluations/x")
"""

from __future__ import annotations

import hashlib
import json
import shlex
import sys
import time
from collections.abc import Callable, Container
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

from areal_gsm8k.data import prompts
from areal_gsm8k.evaluation import engines, test_seal
from areal_gsm8k.evaluation.card import Card, outcome
from areal_gsm8k.evaluation.completions import Completions
from areal_gsm8k.evaluation.engine import Answer, CompletionRequest
from areal_gsm8k.evaluation.items import Items
from areal_gsm8k.evaluation.model import Model, find
from areal_gsm8k.evaluation.settings import EvaluationError, EvaluationSettings
from areal_gsm8k.grading import parser

VERDICT = ("lenient", "strict", "formatted", "rule", "extracted", "value")
LARGEST_SEED = 2**31 - 1


@dataclass(frozen=True)
class Progress:
    """How far an evaluation is, told after every answer or batch. seconds: over all sessions of it."""

    done: int
    total: int
    tokens: int
    seconds: float


def evaluate(
    model: str | Path,
    items: Items,
    settings: EvaluationSettings,
    folder: str | Path,
    *,
    graded: bool = True,
    test_log: Path | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    command: str | None = None,
) -> Card:
    """Evaluate a run directory, model folder or hub id; or go on with an interrupted evaluation in `folder`.

    Writes settings.json, completions.jsonl and evaluation.json there (generation.json when not graded). test_log: where
    an opening of the test split is noted; needed for items of that split. Raises EvaluationError, or ChildDied when a
    server that was started here dies; the completions so far stay in the folder, and the same call goes on from them.
    """
    evaluation = Evaluation(find(str(model)), items, settings, graded)
    return evaluation.run(Path(folder), test_log, on_progress, command or shlex.join(sys.argv))


class Evaluation:
    """A model, items and settings, with the prompts they make. Nothing is generated before `run`."""

    def __init__(self, model: Model, items: Items, settings: EvaluationSettings, graded: bool = True):
        """Raises EvaluationError when there is nothing to ask, or no engine or tokenizer to ask with."""
        if not items.rows:
            raise EvaluationError(f"{items.source}: no {items.split} rows to evaluate on")
        self.model, self.items, self.settings, self.graded = model, items, settings, graded
        self.engine = engines.choose(settings)
        engines.check_installed(self.engine, settings)
        self.served_model = engines.served_model(settings) if settings.url else None

    @cached_property
    def prompts(self) -> list[list[int]]:
        """Token ids of every item's prompt, made as in training."""
        form, system = self.settings.answer_format, self.settings.system_prompt
        return [prompts.prompt_ids(self.model.tokenizer, row["question"], form, system) for row in self.items.rows]

    @cached_property
    def identity(self) -> dict:
        """Everything the completions and verdicts depend on; it must agree before an evaluation goes on in a folder."""
        settings = asdict(self.settings)
        for irrelevant in ("url", "batch_size"):
            del settings[irrelevant]
        return settings | {
            "engine": self.engine,
            "dtype": engines.dtype(self.engine, self.settings),
            "served_model": self.served_model,
            "model_checksum": self.model.checksum,
            "split": self.items.split,
            "subset": self.items.subset,
            "n": len(self.items.rows),
            "data_checksum": self.items.checksum,
            "prompt_hash": prompts.prompt_hash(self.settings.answer_format, self.settings.system_prompt),
            "prompt_ids_hash": _hash(self.prompts),
            "grader_version": parser.GRADER_VERSION if self.graded else None,
        }

    @property
    def folder_name(self) -> str:
        """A name for the output folder; other settings give another name."""
        return f"{self.model.slug}-{_hash(self.identity)[:8]}"

    def run(
        self,
        folder: Path,
        test_log: Path | None = None,
        on_progress: Callable[[Progress], None] | None = None,
        command: str = "",
    ) -> Card:
        """See `evaluate`."""
        sealed = self.items.split == "test"
        if sealed and test_log is None:
            raise EvaluationError("the test split is sealed: name the log that its opening is noted in (test_log)")
        store = Completions(folder, self.identity)
        opened = test_seal.record(test_log, self.items, self.model.name, command) if sealed else None
        self._generate(store, folder / "server.log", on_progress)
        rows = [store.rows[row["id"], sample] for row in self.items.rows for sample in range(self.settings.k)]
        found = outcome(rows, self.settings.k, self.graded)
        card = Card(
            model=self.model.name,
            checkpoint=self.model.checkpoint,
            data=self.items.source,
            software=engines.software(self.engine, self.settings),
            command=command,
            time=time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            wall_seconds=store.seconds,
            tokens_per_second=store.tokens / store.seconds if store.seconds else None,
            test_openings=opened,
            **self.identity,
            **found,
        )
        card.write(folder)
        return card

    def _generate(self, store: Completions, log: Path, on_progress: Callable[[Progress], None] | None) -> None:
        """Generate every completion that the store lacks."""
        requests, impossible = self._requests(store.rows.keys())
        started = time.monotonic() - store.seconds

        def deliver(answers: list[tuple[CompletionRequest, Answer]]) -> None:
            graded = [self._row(request, answer) for request, answer in answers]
            store.append(graded, time.monotonic() - started)
            if on_progress:
                total = len(self.items.rows) * self.settings.k
                on_progress(Progress(len(store.rows), total, store.tokens, store.seconds))

        if impossible:
            deliver(impossible)
        if requests:
            with engines.opened(self.engine, self.model, self.settings, log) as ready:
                started = time.monotonic() - store.seconds
                ready.answer(requests, deliver)
        store.sync()

    def _requests(
        self, had: Container[tuple[str, int]]
    ) -> tuple[list[CompletionRequest], list[tuple[CompletionRequest, Answer]]]:
        """The requests to send, and the answers of those that cannot be sent: prompts that fill the model's context."""
        requests, impossible = [], []
        for index, (row, ids) in enumerate(zip(self.items.rows, self.prompts, strict=True)):
            room = self.model.room(len(ids), self.settings.max_new_tokens)
            for sample in range(self.settings.k):
                seed = (self.settings.seed * 1_000_003 + index * self.settings.k + sample) & LARGEST_SEED
                request = CompletionRequest(index, sample, ids, room, seed)
                if (row["id"], sample) in had:
                    continue
                if room < 1:
                    context = self.model.context_length
                    reason = f"the prompt of {len(ids)} tokens leaves no room in the model's context of {context}"
                    impossible.append((request, Answer(error=reason)))
                else:
                    requests.append(request)
        return requests, impossible

    def _row(self, request: CompletionRequest, answer: Answer) -> dict:
        """The line of completions.jsonl: the completion with its verdict, or with the reason why there is none."""
        item = self.items.rows[request.row]
        row = {
            "row": item["id"],
            "sample": request.sample,
            "question": item["question"],
            "reference": item["answer"],
            "completion": answer.text,
            "prompt_tokens": len(request.prompt_ids),
            "completion_tokens": answer.tokens,
            "truncated": answer.truncated,
            "error": answer.error,
        }
        if not self.graded or answer.text is None:
            return row
        try:
            verdict = parser.grade(answer.text, item["answer"], self.settings.answer_format)
        except Exception as failure:  # whatever a grader raises is a counted error, never a wrong answer
            return row | {"error": f"{type(failure).__name__}: {failure}"}
        if verdict.error:
            return row | {"error": verdict.error}
        return row | {name: getattr(verdict, name) for name in VERDICT}


def _hash(value) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:12]
