"""The curves of one run as a PNG: plots/curves.png, drawn from metrics.jsonl."""

from pathlib import Path

from areal_gsm8k.report.curves import FEW, curves, merged
from areal_gsm8k.runs.files import replacing
from areal_gsm8k.runs.run import Run


def draw(run: Run) -> Path:
    """Write plots/curves.png and return its path. Raises ValueError when the run has no steps yet."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    rows = run.read_metrics()
    if not any("reward" in row for row in rows):
        raise ValueError(f"{run.metrics} holds no steps to draw.")
    rows = merged(rows)
    figure, axes = plt.subplots(2, 3, figsize=(15, 8), constrained_layout=True)
    dev = {"dev/accuracy": "accuracy", "dev/accuracy_strict": "strict"}
    _curves(axes[0, 0], rows, dev, "accuracy of the dev evaluation", smoothed=False)
    axes[0, 0].set_ylim(0, 1)
    _curves(axes[0, 1], rows, {"reward": "reward", "accuracy": "accuracy (sampled)"}, "training batches")
    _curves(axes[0, 2], rows, {"groups_without_signal": "groups without signal", "truncated": "truncated"}, "shares")
    _curves(axes[1, 0], rows, {"entropy": "entropy (nats/token)"}, "entropy")
    _curves(axes[1, 1], rows, {"completion_tokens": "tokens"}, "completion length")
    times = {name: name.removeprefix("time/") for row in rows for name in row if name.startswith("time/")}
    _curves(axes[1, 2], rows, times, "seconds a step", smoothed=False)
    figure.suptitle(f"{run.root.parent.name}/{run.root.name}")
    file = run.plots / "curves.png"
    with replacing(file) as out:
        figure.savefig(out, dpi=110, format="png")
    plt.close(figure)
    return file


def _curves(axis, rows: list[dict], names: dict[str, str], title: str, smoothed: bool = True) -> None:
    """Each metric as the report draws it: bold the running mean, faint the values; few values with dots."""
    for name, label in names.items():
        there = [row for row in rows if name in row]
        if not there:
            continue
        x, found = [row["step"] for row in there], curves(name, there, smoothed)
        bold, mark = found.get("_mean", found[""]), "o" if len(x) <= FEW else ""
        dash = "--" if name.endswith("_strict") else "-"
        (line,) = axis.plot(x, bold, label=label, linestyle=dash, marker=mark, markersize=4)
        if "_mean" in found:
            axis.plot(x, found[""], color=line.get_color(), alpha=0.25)
        if "_low" in found:
            axis.fill_between(x, found["_low"], found["_high"], alpha=0.2, label="95 % interval")
    axis.set(title=title, xlabel="step")
    if axis.lines:
        axis.legend(fontsize="small")
