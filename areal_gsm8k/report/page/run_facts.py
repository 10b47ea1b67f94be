"""One run in words and numbers, as the report shows it: read once, from the run directory alone."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from areal_gsm8k.dotted_keys import lookup
from areal_gsm8k.grading.rewards import WEIGHTED
from areal_gsm8k.report import summary
from areal_gsm8k.report.curves import merged
from areal_gsm8k.report.page.chart_list import AT_TIMES, PHASES
from areal_gsm8k.runs.files import read_lines
from areal_gsm8k.runs.run import Run, RunError, nearby
from areal_gsm8k.statistics import in_per_cent, share_interval
from areal_gsm8k.watch import band, preflight, verdict

RECENT = 10  # steps a mean is taken over
SECRET = re.compile(r"(?i)(\b\w*(?:api_key|password|secret|token)['\"]?\s*[:=]\s*)(?!null\b|''|\"\")[^\s,}\]]+")


@dataclass(frozen=True)
class Tile:
    """A number that is looked at first."""

    label: str
    value: str
    note: str = ""


@dataclass(frozen=True)
class Facts:
    """rows: metrics, one object a step, nulls left out. before_after: (rate, before, after, change)."""

    run: Run
    name: str
    rows: list[dict]
    config: dict
    config_text: str
    verdict: verdict.RunVerdict
    band: band.Band | None
    tiles: list[Tile]
    before_after: list[tuple[str, str, str, str]]
    details: list[tuple[str, str]]
    commands: list[str]
    environment: dict


def read(folder: Path, name: str) -> Facts:
    """Everything the report says of a run besides its samples. Raises RunError for a folder that holds none."""
    run = Run(folder)
    if not folder.is_dir():
        raise RunError(f"{folder}: no such folder. {_such_as(folder)}")
    if not run.config.is_file() and not run.metrics.is_file():
        raise RunError(f"{folder}: holds no run, neither config.yaml nor metrics.jsonl. {_such_as(folder)}")
    try:
        rows = merged(run.read_metrics())
        config, text = run.read_config(), run.config.read_text(encoding="utf-8") if run.config.is_file() else ""
        launches = run.read_launches()
        return Facts(
            run=run,
            name=name,
            rows=rows,
            config=config,
            config_text=masked(text),
            verdict=verdict.of_run(run),
            band=_band(run),
            tiles=_tiles(run, rows, launches),
            before_after=_before_after(run),
            details=_details(run, rows, config, launches),
            commands=[masked(launch["command"]) for launch in launches],
            environment=run.read_environment() or {},
        )
    except ValueError as error:
        raise RunError(f"{folder}: a file of this run cannot be read ({error}); mend or remove it.") from None


def masked(text: str) -> str:
    """Text with the values of keys that name a secret replaced."""
    return SECRET.sub(r"\1***", text)


def _band(run: Run) -> band.Band | None:
    try:
        return band.band_of(run)
    except ValueError:  # a band that cannot be read: the verdict says so
        return None


def _such_as(folder: Path) -> str:
    """What to do, with the newest runs that may have been meant."""
    examples = ", ".join(map(str, nearby(folder)[:3])) or "runs/tiny-grpo/20261121_101500"
    return f"Give the directory of a GRPO run, such as {examples}."


def _tiles(run: Run, rows: list[dict], launches: list[dict]) -> list[Tile]:
    dev = [row for row in rows if "dev/accuracy" in row]
    steps = [row for row in rows if "reward" in row]
    tiles = []
    if dev:
        best = max(dev, key=lambda row: row["dev/accuracy"])
        since = f"; at first {dev[0]['dev/accuracy']:.1%}" if len(dev) > 1 else ""
        tiles.append(Tile("dev accuracy", f"{dev[-1]['dev/accuracy']:.1%}", f"{_interval(dev[-1])}{since}"))
        at_best = f"{_interval(best)}, step {best['step']}"
        tiles.append(Tile("best dev accuracy", f"{best['dev/accuracy']:.1%}", at_best))
    if steps:
        first, last = ([row["reward"] for row in part] for part in (steps[:RECENT], steps[-RECENT:]))
        note = f"mean of {len(last)} steps; at first {_mean(first):.3f}"
        tiles.append(Tile("training reward", f"{_mean(last):.3f}", note))
    done, planned = steps[-1]["step"] if steps else 0, launches[-1].get("steps") if launches else None
    tiles.append(Tile("steps", f"{done:,}" + (f" of {planned:,}" if planned else ""), _phase(run)))
    if seconds := sum(row.get("time/step", 0.0) for row in steps):
        tokens = [row["tokens_per_second"] for row in steps if "tokens_per_second" in row]
        tiles.append(Tile("time in steps", _clock(seconds), f"{_mean(tokens):,.0f} tokens/s" if tokens else ""))
    return tiles


def _interval(row: dict) -> str:
    """The 95 % interval of a dev accuracy."""
    n = row.get("dev/n")
    if not n:
        return "n not recorded"
    return f"{in_per_cent(*share_interval(row['dev/accuracy'], n))} of {n:,}"


def _phase(run: Run) -> str:
    status = run.status()
    return f"{status['phase']}, {_date(status['time'])}" if status else "never started"


def _before_after(run: Run) -> list[tuple[str, str, str, str]]:
    """Rows of the table of summary.json, from the first and the newest evaluation there is; [] without two."""
    try:
        found = summary.build(run, {})
    except ValueError:
        return []
    split = found["gain_split"]
    made_of = f"arithmetic {100 * split['arithmetic']:+.1f}, format {100 * split['format']:+.1f}"
    return [
        *summary.changes(found),
        ("strict gain is", "", "", made_of),
        ("questions gained / lost", "", "", f"{found['gained']} / {found['lost']}"),
    ]


def _details(run: Run, rows: list[dict], config: dict, launches: list[dict]) -> list[tuple[str, str]]:
    """Label and text of whatever is known."""
    get = partial(lookup, config)
    train, valid = get("train_dataset.path"), get("valid_dataset.path")
    found = {
        "model": get("actor.path"),
        "training data": train and f"{train}{_rows_of(get('data.train_rows'))}",
        "dev data": valid and f"{valid}, {get('valid_dataset.split')}{_rows_of(get('data.dev_rows'))}",
        "a step": get("gconfig.n_samples")
        and f"{get('train_dataset.batch_size')} questions x {get('gconfig.n_samples')} completions, temperature "
        f"{get('gconfig.temperature')}, at most {get('gconfig.max_new_tokens')} tokens",
        "reward": ", ".join(f"{part} {weight:g}" for part, weight in _paid(get("reward") or {})),
        "answer format": get("answer_format"),
        "learning rate": get("actor.optimizer.lr"),
        "allocation": get("allocation_mode"),
        "seed": get("seed"),
        "started": launches and _date(launches[0]["time"]),
        "resumed": ", ".join(f"after step {one['step']}, {_date(one['time'])}" for one in launches[1:]),
        "wall time": (done := run.read_summary()) and done.get("wall_seconds") and _clock(done["wall_seconds"]),
        "seconds a step": ", ".join(f"{phase} {seconds:.2g}" for phase, seconds in _phases(rows)),
        "server restarts": len(read_lines(run.restarts)[0]),
        "preflight": _preflight(run),
        "folder": run.root.absolute(),
    }
    return [(label, str(value)) for label, value in found.items() if value not in (None, "", 0, [])]


def _paid(reward: dict) -> list[tuple[str, float]]:
    """The parts of the reward that are paid, and the control that permutes it."""
    paid = [(part, reward[part]) for part in WEIGHTED if reward.get(part)]
    paid += [(reward["custom"], reward.get("custom_weight", 1.0))] if reward.get("custom") else []
    return [*paid, ("shuffled, a control:", 1)] if reward.get("shuffled") else paid


def _phases(rows: list[dict]) -> list[tuple[str, float]]:
    """Mean seconds a step of each phase that takes more than a hundredth of it."""
    steps = [row for row in rows if "time/step" in row]
    if not steps:
        return []
    means = [(phase.label, _mean([row.get(phase.key, 0.0) for row in steps])) for phase in PHASES + AT_TIMES]
    whole = _mean([row["time/step"] for row in steps])
    return [(label, seconds) for label, seconds in means if seconds > whole / 100]


def _preflight(run: Run) -> str:
    found = run.read_preflight()
    return (found.get("refusal") or preflight.line(found)).removeprefix("preflight: ") if found else ""


def _rows_of(rows: int | None) -> str:
    return f", {rows:,} rows" if rows else ""


def _date(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {seconds:02d} s" if minutes else f"{seconds} s"


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def environment_lines(environment: dict) -> list[tuple[str, str]]:
    """environment.json as label and text; runs/environment.py has its fields."""
    found = environment.get
    packages = ", ".join(f"{name} {version}" for name, version in (found("packages") or {}).items())
    lines = {
        "Python": found("python"),
        "platform": found("platform"),
        "processor": found("cpu") and f"{found('cpu')}, {found('cpu_count')} cores to use",
        "memory": found("memory_gib") and f"{found('memory_gib')} GiB",
        "GPUs": ", ".join(found("gpus") or []) or "none",
        "packages": packages,
        "git commit": found("git_commit") and found("git_commit") + (" with changes" if found("git_changed") else ""),
    }
    return [(label, value) for label, value in lines.items() if value]
