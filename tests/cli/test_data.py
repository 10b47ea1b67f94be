import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from areal_gsm8k.cli.data import app
from areal_gsm8k.data.problems import load_problems
from areal_gsm8k.paths import PROJECT

GSM8K = PROJECT.parent / "shared" / "gsm8k"
needs_gsm8k = pytest.mark.skipif(not GSM8K.exists(), reason="the real GSM8K files are not beside the repository")


def prepare(*arguments):
    return CliRunner().invoke(app, ["prepare", *map(str, arguments)])


def names(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


@needs_gsm8k
def test_gsm8k_to_parquet_and_back(tmp_path):
    result = prepare("--source", GSM8K, "--out", tmp_path / "gsm8k")
    assert result.exit_code == 0, result.output
    assert "GSM8K, rows and sha256 as released: train (7,473)" in result.output
    assert names(tmp_path / "gsm8k") == ["train.parquet", "validation.parquet"]
    for split in ("train", "dev"):
        assert load_problems(tmp_path / "gsm8k", split).to_list() == load_problems(GSM8K, split).to_list()
    again = prepare("--source", tmp_path / "gsm8k", "--out", tmp_path / "again")
    assert "as released" in again.output


@needs_gsm8k
def test_gsm8k_to_jsonl_with_the_first_500_of_test(tmp_path):
    result = prepare("--source", GSM8K, "--out", tmp_path, "--layout", "jsonl")
    assert "train (7,473), test (1,319)" in result.output
    assert names(tmp_path) == ["test.jsonl", "test_500.jsonl", "train.jsonl"]
    test = load_problems(GSM8K, "test").to_list()
    assert [json.loads(line) for line in (tmp_path / "test_500.jsonl").open()] == test[:500]
    for split in ("train", "dev", "test"):
        assert load_problems(tmp_path, split).to_list() == load_problems(GSM8K, split).to_list()


@needs_gsm8k
def test_damaged_gsm8k_writes_nothing(tmp_path):
    lines = (GSM8K / "train.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "train.jsonl").write_text("".join(lines[:-1]))
    result = prepare("--source", tmp_path, "--out", tmp_path / "out")
    assert result.exit_code == 1
    assert "7,472 rows (should be 7,473)" in result.output
    assert not (tmp_path / "out").exists()


def test_generated_in_both_layouts(tmp_path):
    result = prepare("--source", "generated", "--out", tmp_path / "a", "--rows", 60, "--seed", 2)
    assert result.exit_code == 0, result.output
    assert (
        load_problems(tmp_path / "a", "train").to_list()
        == load_problems("generated", "train", rows=60, seed=2).to_list()
    )
    assert load_problems(tmp_path / "a", "dev").to_list() == load_problems("generated", "dev", seed=2).to_list()
    assert prepare("--source", "generated", "--out", tmp_path / "b", "--rows", 60, "--layout", "jsonl").exit_code == 0
    assert names(tmp_path / "b") == ["test.jsonl", "test_500.jsonl", "train.jsonl"]
    mixed = prepare("--source", "generated", "--out", tmp_path / "b", "--rows", 60)
    assert mixed.exit_code == 1
    assert "already holds test.jsonl, test_500.jsonl, train.jsonl" in mixed.output


def test_errors_are_one_sentence(tmp_path):
    for arguments, message in [
        (("--source", "nowhere"), "nowhere: no such file or folder"),
        (("--source", tmp_path / "mine.jsonl", "--rows", 5), "--rows applies to --source generated only"),
        (("--source", tmp_path / "mine.jsonl", "--layout", "jsonl"), "one file has no test split"),
    ]:
        (tmp_path / "mine.jsonl").write_text('{"question": "q", "answer": "#### 1"}\n')
        result = prepare(*arguments, "--out", tmp_path / "out")
        assert result.exit_code == 1
        assert result.output.startswith("error: ")
        assert message in result.output


def test_an_interrupted_write_leaves_the_old_file(tmp_path, monkeypatch):
    assert prepare("--source", "generated", "--out", tmp_path, "--rows", 20).exit_code == 0
    before = (tmp_path / "train.parquet").read_bytes()

    def full_disk(*_):
        raise OSError("no space left on device")

    monkeypatch.setattr("os.fsync", full_disk)
    result = prepare("--source", "generated", "--out", tmp_path, "--rows", 30)
    assert result.exit_code == 1
    assert "no space left" in result.output
    assert (tmp_path / "train.parquet").read_bytes() == before
    assert names(tmp_path) == ["train.parquet", "validation.parquet"]
