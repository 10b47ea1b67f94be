import json
import os

import pytest

from areal_gsm8k.runs.files import append_lines, read_lines, write_atomically
from areal_gsm8k.runs.run import Run, RunError


def test_a_used_directory_is_refused_and_an_empty_one_is_not(tmp_path):
    run = Run.create(tmp_path / "e" / "t")
    assert run.records.is_dir() and run.rejected.parent.is_dir()
    with pytest.raises(RunError, match=f"is running, as process {os.getpid()}"):
        Run.create(run.root)
    run._lock.close()  # noqa: SLF001 - the lock ends with its file
    with pytest.raises(RunError, match=f"--resume {run.root}.*trial_name"):
        Run.create(run.root)
    (tmp_path / "empty").mkdir()
    Run.create(tmp_path / "empty")


def test_a_torn_last_line_is_left_for_later(tmp_path):
    file = tmp_path / "m.jsonl"
    append_lines(file, [{"step": 1}, {"step": 2}])
    with file.open("a") as out:
        out.write('{"step": 3')
    rows, offset = read_lines(file)
    assert [row["step"] for row in rows] == [1, 2]
    with file.open("a") as out:
        out.write("}\n")
    assert read_lines(file, offset)[0] == [{"step": 3}]


def test_unicode_line_separators_do_not_split_a_row(tmp_path):
    file = tmp_path / "m.jsonl"
    append_lines(file, [{"completion": "a\u2028b\x85c\rd\n"}])
    assert read_lines(file)[0] == [{"completion": "a\u2028b\x85c\rd\n"}]


def test_a_failed_write_leaves_the_old_file_and_no_temporary(tmp_path):
    file = tmp_path / "summary.json"
    write_atomically(file, "old")
    with pytest.raises(UnicodeEncodeError):
        write_atomically(file, "\ud800")
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]


def test_status_round_trips(tmp_path):
    run = Run.create(tmp_path / "r")
    assert run.status() == {}
    run.set_status("rollout", step=3)
    assert run.status()["phase"] == "rollout" and run.status()["step"] == 3
    json.loads(run.status_file.read_text())


def test_the_time_of_earlier_launches_adds_up(tmp_path):
    run = Run.create(tmp_path / "r")
    write_atomically(run.launches, '{"command": "a", "time": 100.0, "step": 0, "spent": 0.0}\n')
    write_atomically(run.status_file, '{"phase": "training", "time": 130.0}')
    run.add_launch("b", step=7, steps=9)
    assert [(launch["step"], launch["spent"]) for launch in run.read_launches()] == [(0, 0.0), (7, 30.0)]
