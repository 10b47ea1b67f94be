"""`gsm8k report` on runs that are hardly there or not at all, and the command itself."""

import json
from pathlib import Path

import pytest
from reported_run import make_run, metrics, parsed
from typer.testing import CliRunner

from areal_gsm8k.cli import app
from areal_gsm8k.report import page
from areal_gsm8k.report.page import chart_list
from areal_gsm8k.runs.files import append_lines, to_lines, write_atomically
from areal_gsm8k.runs.run import Run, RunError


@pytest.fixture(autouse=True)
def one_chart(monkeypatch):
    """bokeh takes a tenth of a second for each; test_html_report_browser.py has them all."""
    monkeypatch.setattr("areal_gsm8k.report.page.page.CHARTS", chart_list.CHARTS[:1])


@pytest.fixture
def run(tmp_path):
    return make_run(tmp_path / "runs" / "e" / "t")


def only_preflight(run: Run) -> None:
    for path in (run.metrics, *run.evaluation(0).parent.iterdir(), *run.samples(1).parent.iterdir()):
        path.unlink()
    rates = {"prompts": 1, "samples": 8, "errors": 0, "signal": 0.0, "accuracy": 0.0, "accuracy_strict": 0.0}
    rates |= {"format_rate": 0.0, "truncated": 1.0, "refusal": "In no group did two rewards differ"}
    write_atomically(run.preflight, json.dumps(rates))


def no_evaluation(run: Run) -> None:
    for file in run.evaluation(0).parent.iterdir():
        file.unlink()
    write_atomically(run.metrics, to_lines(metrics(step) for step in range(1, 5)))


def torn_line(run: Run) -> None:
    with run.metrics.open("a") as out:
        out.write('{"step": 5, "rew')


def nulls(run: Run) -> None:
    row = dict.fromkeys(metrics(5)) | {"step": 5, "reward": 0.5, "dev/accuracy": None, "loss": float("nan")}
    append_lines(run.metrics, [row])


def no_samples(run: Run) -> None:
    run.samples(2).unlink()


def no_configuration(run: Run) -> None:
    run.config.unlink()


def nothing_but_the_configuration(run: Run) -> None:
    for path in (run.metrics, run.launches, run.status_file):
        path.unlink()
    for folder in (run.evaluation(0).parent, run.samples(0).parent):
        for file in folder.iterdir():
            file.unlink()
        folder.rmdir()


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (only_preflight, "In no group did two rewards differ"),
        (no_evaluation, "holds no evaluation yet"),
        (torn_line, "steps 4"),
        (nulls, "steps 5"),
        (no_samples, "steps 4"),
        (no_configuration, "has no config.yaml"),
        (nothing_but_the_configuration, "never started"),
    ],
)
def test_runs_that_are_hardly_there(run, damage, expected):
    damage(run)
    assert expected in parsed(run).said()


def test_a_run_of_one_step(tmp_path):
    found = parsed(make_run(tmp_path / "e" / "t", steps=1))
    assert list(found.data()["samples"][0]) == ["1"] and "steps 1" in found.said()


def test_a_damaged_file_is_named(run):
    write_atomically(run.metrics, '{"step": 1}\n{"step"\n{"step": 2}\n')
    with pytest.raises(RunError, match=r"cannot be read .*mend or remove"):
        page.write([run.root], run.report)


# The command


def test_the_command_prints_where_the_file_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    runs = [str(make_run(tmp_path / "runs" / "e" / name).root) for name in "ab"]
    for arguments, file in (
        ([runs[0]], Path(runs[0]) / "report.html"),
        (runs, tmp_path / "runs" / "report.html"),
        ([*runs, "--out", "x/y.html"], tmp_path / "x" / "y.html"),
    ):
        result = CliRunner().invoke(app, ["report", *arguments])
        assert (result.exit_code, result.output.strip()) == (0, str(file))
        assert file.is_file()


def test_the_command_says_what_is_no_run(run):
    for folder, message in [
        (run.root.parents[1], f"holds no run, neither config.yaml nor metrics.jsonl. Give the directory of a GRPO run, "
         f"such as {run.root}."),
        (run.root.parent / "typo", f"no such folder. Give the directory of a GRPO run, such as {run.root}."),
    ]:  # fmt: skip
        result = CliRunner(env={"COLUMNS": "500"}).invoke(app, ["report", str(folder)])
        assert result.exit_code == 1 and message in result.output
        assert not (folder / "report.html").exists()


def test_a_report_that_cannot_be_written_does_not_fail_a_run(run, monkeypatch):
    from areal_gsm8k.launch import train

    assert train._report(run) == str(run.report) and run.report.is_file()  # noqa: SLF001 - the last line of a run by itself
    monkeypatch.setattr(page, "write", lambda *_: 1 / 0)
    assert train._report(run) == "none (ZeroDivisionError: division by zero)"  # noqa: SLF001 - the last line of a run by itself
