"""The curves of one run as a PNG: plots/curves.png, drawn from metrics.jsonl."""

from collections.abc import Sequence
from pathlib import Path

from areal_gsm8k.runs.run import Run
from areal_gsm8k.statistics import wilson_interval

SMOOTHING = 0.9  # weight of the past in the running mean drawn over each noisy curve


def draw(run: Run) -> Path:
    """Write plots/curves.png and return its path. Raises ValueError when the run has no steps yet."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    rows = run.read_metrics()
    steps = [row for row in rows if "reward" in row]
    if not steps:
        raise ValueError(f"{run.metrics} holds no steps to draw.")
    figure, axes = plt.subplots(2, 3, figsize=(15, 8), constrained_layout=True)
    _dev(axes[0, 0], [row for row in rows if row.get("dev/accuracy") is not None])
    _curves(axes[0, 1], steps, {"reward": "reward", "accuracy": "accuracy (sampled)"}, "training batches")
    _curves(axes[0, 2], steps, {"groups_without_signal": "groups without signal", "truncated": "truncated"}, "shares")
    _curves(axes[1, 0], steps, {"entropy": "entropy (nats/token)"}, "entropy")
    _curves(axes[1, 1], steps, {"completion_tokens": "tokens"}, "completion length")
    times = {name: name.removeprefix("time/") for name in steps[0] if name.startswith("time/")}
    _curves(axes[1, 2], steps, times, "seconds a step", smooth=False)
    figure.suptitle(f"{run.root.parent.name}/{run.root.name}")
    file = run.plots / "curves.png"
    partial = file.with_name(".curves.partial.png")
    figure.savefig(partial, dpi=110)
    plt.close(figure)
    return partial.replace(file)


def _dev(axis, rows: list[dict]) -> None:
    x = [row["step"] for row in rows]
    y = [row["dev/accuracy"] for row in rows]
    bounds = [wilson_interval(round(row["dev/accuracy"] * row["dev/n"]), row["dev/n"]) for row in rows]
    axis.plot(x, y, marker="o", label="accuracy")
    axis.plot(x, [row["dev/accuracy_strict"] for row in rows], linestyle="--", label="strict")
    if bounds:
        axis.fill_between(x, [low for low, _ in bounds], [high for _, high in bounds], alpha=0.2, label="95 % interval")
    axis.set(title="accuracy of the dev evaluation", xlabel="step", ylim=(0, 1))
    axis.legend()


def _curves(axis, rows: list[dict], names: dict[str, str], title: str, smooth: bool = True) -> None:
    for name, label in names.items():
        points = [(row["step"], row[name]) for row in rows if row.get(name) is not None]
        if not points:
            continue
        x, y = zip(*points, strict=True)
        (line,) = axis.plot(x, y, alpha=0.25 if smooth else 1.0, label=None if smooth else label)
        if smooth:
            axis.plot(x, _running_mean(y), color=line.get_color(), label=label)
    axis.set(title=title, xlabel="step")
    if axis.lines:
        axis.legend(fontsize="small")


def _running_mean(values: Sequence[float]) -> list[float]:
    """Exponential mean of at least one value, from the first on."""
    mean, smoothed = values[0], []
    for value in values:
        mean = SMOOTHING * mean + (1 - SMOOTHING) * value
        smoothed.append(mean)
    return smoothed
