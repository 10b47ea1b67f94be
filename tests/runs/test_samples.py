"""`gsm8k samples` on runs written by hand: what is shown, what texts may hold, what is said when something lacks."""

import json
import subprocess
import sys

import pytest
from typer.testing import CliRunner
from written_run import lines, sample, write_run

from areal_gsm8k.cli import app, text
from areal_gsm8k.paths import PROJECT
from areal_gsm8k.runs import samples
from areal_gsm8k.runs.files import to_lines, write_atomically
from areal_gsm8k.runs.samples import SamplesError

RIGHT, WRONG = "total <<2+3=5>>5\n#### 5", "total <<2+3=6>>6\n#### 6"
CUT = "then <<2+3=5>>5\nthen"


def shown(run, *options):
    return CliRunner().invoke(app, ["samples", str(run.root), *options])


@pytest.fixture
def run(tmp_path):
    """Two steps; in the second a group with signal and one without, and two samples that no step consumed."""
    second = [sample(4, RIGHT), sample(5, WRONG), sample(6, RIGHT), sample(7, CUT, truncated=True, lenient=False)]
    second += [sample(8 + i, WRONG, group="0-1", advantage=0.0) for i in range(4)]
    rejected = [sample(20, WRONG, step=2, rejected="partial group: 1 of 4 samples")]
    failed = {"id": 21, "question": "2 + 3?", "reference": "#### 5", "error": "TimeoutError: late", "step": 1}
    run = write_run(tmp_path, {1: [sample(0, RIGHT)], 2: second}, rejected=[*rejected, failed | {"rejected": "late"}])
    dev = [{key: row[key] for key in row if key not in ("group", "advantage")} for row in second]
    write_atomically(run.evaluation(2), to_lines([*dev, {"id": 9, "question": "q", "error": "no answer"}]))
    return run


def test_the_last_step_is_shown_with_what_each_sample_was_and_got(run):
    result = shown(run)
    assert result.exit_code == 0, result.output
    assert result.output.startswith(
        "step 2: 8 samples, 2 right, 6 wrong, 1 truncated; 2 groups, 1 without signal; mean reward 0.250\n"
    )
    facts = "sample 4, group 0-0, position 1, right, reward 1, advantage +0.500, policy version 0, 23 tokens"
    block = f"{facts}\nquestion    2 + 3?\ncompletion  total <<2+3=5>>5\n            #### 5\n"
    assert block + "answer      5   (rule: hash)\nreference   total" in result.output


def test_filters_hold_together(run):
    def ids(*options):
        return [row["id"] for row in lines(shown(run, "--json", *options).output)]

    assert ids() == [4, 5, 6, 7, 8, 9, 10, 11]
    assert ids("--right") == [4, 6] and ids("--wrong", "--truncated") == [7] and ids("--right", "--wrong") == []
    assert ids("--grep", "2+3=6", "--n", "2") == [5, 8] and ids("--grep", "TOTAL", "--group", "0-0") == [4, 5, 6, 7]
    assert ids("--step", "1") == [0]
    assert ids("--error") == [20] and ids("--error", "--step", "1") == [21]
    assert ids("--eval", "--error") == [9] and ids("--eval", "--right") == [4, 6]


def test_more_than_the_first_ten_are_counted_and_none_is_said(run):
    write_atomically(run.samples(3), to_lines(sample(100 + i) for i in range(12)))
    output = shown(run).output
    assert output.count("\nsample ") == 10 and "10 of 12 shown; --n 12 shows all." in output
    assert shown(run, "--n", "12").output.count("\nsample ") == 12
    assert "None of them fits." in shown(run, "--grep", "nowhere").output


def test_what_no_step_consumed_says_why(run):
    assert "rejected    partial group: 1 of 4 samples" in shown(run, "--error").output
    failed = shown(run, "--error", "--step", "1").output
    assert "sample 21\n" in failed and "error       TimeoutError: late" in failed and "completion" not in failed


def test_a_group_stands_side_by_side_in_a_terminal_and_in_lines_elsewhere(run):
    program = [sys.executable, "-m", "areal_gsm8k", "samples", str(run.root), "--group", "0-0"]
    environment = {"FORCE_COLOR": "1", "COLUMNS": "100", "PATH": "", "PYTHONIOENCODING": "utf-8"}
    wide = subprocess.run(program, capture_output=True, text=True, env=environment, cwd=PROJECT)
    first = next(line for line in wide.stdout.splitlines() if "#### 5" in line and "│" in line)
    assert "#### 6" in first  # the second sample's answer beside the first's
    assert "advantage -0.500" in wide.stdout and wide.stdout.count("2 + 3?") == 1
    narrow = shown(run, "--group", "0-0").output
    assert "│" not in narrow and narrow.count("\nsample ") == 4 and narrow.count("2 + 3?") == 1


HOSTILE = "[red]no[/red] [/] \x1b[2J\x1b]0;title\x07 \u202egnp.exe \u200b\r over \ud800 \u2028end \u00e9"


def test_no_text_acts_on_the_terminal_or_is_taken_for_markup(run):
    write_atomically(run.samples(3), json.dumps(sample(1, HOSTILE)) + "\n")
    for options in (), ("--group", "0-0"):
        output = shown(run, *options).output
        assert "[red]no[/red] [/] ␛[2J␛]0;title␇ <U+202E>gnp.exe <U+200B>␍ over <U+D800> <U+2028>end \u00e9" in output
    program = [sys.executable, "-m", "areal_gsm8k", "samples", str(run.root), "--group", "0-0"]
    environment = {"FORCE_COLOR": "1", "COLUMNS": "100", "PATH": "", "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(program, capture_output=True, env=environment, cwd=PROJECT)
    assert done.returncode == 0, done.stderr
    assert b"\\u241b[2J" in done.stdout and b"\x1b[2J" not in done.stdout and b"\\xe9" in done.stdout
    assert json.loads(shown(run, "--json").output)["completion"] == HOSTILE


def test_a_very_long_text_is_shortened_and_whole_in_json(run):
    long = "a" * 300_000 + "#### 5"
    write_atomically(run.samples(3), to_lines([sample(1, long)]))
    output = shown(run).output
    assert len(output) < 6000 and "296,006 characters left out" in output and "#### 5" in output
    assert json.loads(shown(run, "--json").output)["completion"] == long
    assert text.shortened("abc", 3) == "abc"


def test_a_closed_pipe_is_no_error(run):
    for options in "--n 64", "--json":
        piped = f"{sys.executable} -m areal_gsm8k samples {run.root} {options} | head -n 1"
        write_atomically(run.samples(3), to_lines(sample(i, "x" * 2000) for i in range(400)))
        done = subprocess.run(["bash", "-c", piped], capture_output=True, text=True, cwd=PROJECT)
        assert done.stderr == "" and done.stdout.count("\n") == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--step", "9"), "no samples of step 9; there are steps 1 to 2"),
        (("--eval", "--step", "1"), "no evaluation after step 1; there are steps 2"),
        (("--error", "--step", "9"), "nothing was rejected in step 9, but in 1 to 2"),
        (("--group", "0-7"), "--group 0-7: no such group in this step; there are 0-0, 0-1"),
        (("--group", "0-0", "--eval"), "only samples that a step consumed have groups"),
    ],
)
def test_what_is_not_there_is_one_line_that_says_what_is(run, options, message):
    result = shown(run, *options)
    assert result.exit_code == 1 and result.output.startswith("error: ") and message in result.output
    assert result.output.count("\n") == 1


def test_a_folder_without_a_run_names_those_nearby(run):
    for folder in (run.root.parent, run.root.parent / "missing"):
        result = CliRunner().invoke(app, ["samples", str(folder)])
        assert result.exit_code == 1 and f"no run there (no config.yaml). Runs nearby: {run.root}" in result.output


def test_a_run_that_has_just_begun_has_no_samples_yet(tmp_path):
    run = write_run(tmp_path, {})
    assert "no samples of step 1; there are none yet" in shown(run).output
    assert "there are none with --error" in shown(run, "--error").output
    assert "no evaluation after step 0; there are none yet" in shown(run, "--eval").output


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "holds no samples"),
        ('{"id": 1', "holds no samples"),  # a torn line: the writer was killed
        ('{"id": 1}\n{broken\n', "cannot be read"),
        ("null\n", ":1: not a sample"),
        ('{"id": 1, "group": "0-0"}\n', ":1: not a sample of a step, its `question` is missing"),
        (to_lines([sample(1), sample(2, reward=None)]), ":2: not a sample of a step, its `reward` is None"),
    ],
)
def test_damaged_files_are_named(run, content, message):
    run.samples(3).write_text(content)
    result = shown(run)
    assert result.exit_code == 1 and str(run.samples(3)) in result.output and message in result.output


def test_a_torn_last_line_is_left_out(run):
    whole = to_lines([sample(1), sample(2)])
    run.samples(3).write_text(whole + '{"id": 3, "compl')
    assert [row["id"] for row in samples.read(run, 3)] == [1, 2]


def test_a_sample_is_found_wherever_it_lies(run):
    assert samples.find(run, 5) == (2, samples.read(run, 2)[1])
    assert samples.find(run, 20)[1]["rejected"] and samples.find(run, 0, step=1)[0] == 1
    with pytest.raises(SamplesError, match="no sample 5 in step 1; there are 0, 21"):
        samples.find(run, 5, step=1)
    with pytest.raises(SamplesError, match="no sample 99; gsm8k samples shows them"):
        samples.find(run, 99)
