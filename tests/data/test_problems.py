import hashlib
import json
from pathlib import Path

import httpx
import huggingface_hub
import pyarrow
import pyarrow.parquet
import pytest

from areal_gsm8k.data import problems
from areal_gsm8k.data.problems import DataError, checksum, in_dev, load_problems, read_split, verify_gsm8k
from areal_gsm8k.paths import PROJECT

GSM8K = PROJECT.parent / "shared" / "gsm8k"
needs_gsm8k = pytest.mark.skipif(not GSM8K.exists(), reason="the real GSM8K files are not beside the repository")
ROWS = [{"question": f"What is {n} + {n}?", "answer": f"{n} + {n} = {2 * n}\n#### {2 * n}"} for n in range(60)]


def write(path: Path, rows: list) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    else:
        path.write_text("".join(row if isinstance(row, str) else json.dumps(row) + "\n" for row in rows))
    return path


@needs_gsm8k
def test_real_gsm8k_counts_and_disjoint_dev():
    train, dev, test = (load_problems(GSM8K, split) for split in ("train", "dev", "test"))
    assert (len(train), len(dev), len(test)) == (6946, 527, 1319)
    assert train.column_names == ["id", "question", "answer"]
    assert train[0]["id"] == "gsm8k-train-00000"
    assert train[0]["question"].startswith("Natalia")
    assert not set(train["question"]) & set(dev["question"])
    assert not set(train["id"]) & set(dev["id"])


@needs_gsm8k
def test_real_gsm8k_is_verified_and_damage_noticed():
    train, test = read_split(GSM8K, "all-train"), read_split(GSM8K, "test")
    assert verify_gsm8k(train, "train", str(GSM8K))
    assert verify_gsm8k(test, "test", str(GSM8K))
    assert checksum(test) == hashlib.sha256((GSM8K / "test.jsonl").read_bytes()).hexdigest()
    with pytest.raises(DataError, match=r"7,472 rows \(should be 7,473\)"):
        verify_gsm8k(train[:-1], "train", str(GSM8K))
    changed = [*train[:-1], train[-1] | {"answer": "#### 1"}]
    with pytest.raises(DataError, match="sha256"):
        verify_gsm8k(changed, "train", str(GSM8K))


def test_other_data_is_not_taken_for_gsm8k():
    assert not verify_gsm8k(ROWS, "train", "folder")
    with pytest.raises(DataError, match="openai/gsm8k: looks like"):
        verify_gsm8k(ROWS, "train", problems.HUB_ID)


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_folder_carves_dev_from_train_by_the_question_alone(tmp_path, suffix):
    write(tmp_path / f"train.{suffix}", ROWS)
    train, dev = load_problems(tmp_path, "train"), load_problems(tmp_path, "dev")
    assert sorted([*train["question"], *dev["question"]]) == sorted(row["question"] for row in ROWS)
    assert dev["question"] == [row["question"] for row in ROWS if in_dev(row["question"])]
    write(tmp_path / "b" / f"train.{suffix}", ROWS[::-1])
    assert set(load_problems(tmp_path / "b", "dev")["question"]) == set(dev["question"])


def test_a_validation_file_is_dev_and_leaves_train_whole(tmp_path):
    write(tmp_path / "train.parquet", ROWS[:40])
    write(tmp_path / "validation.parquet", ROWS[40:])
    assert load_problems(tmp_path, "train")["question"] == [row["question"] for row in ROWS[:40]]
    assert load_problems(tmp_path, "dev")["question"] == [row["question"] for row in ROWS[40:]]
    with pytest.raises(DataError, match=r"no test data there .*train\.parquet, validation\.parquet"):
        load_problems(tmp_path, "test")


def test_train_and_dev_never_open_the_test_file(tmp_path):
    write(tmp_path / "train.jsonl", ROWS)
    write(tmp_path / "test.jsonl", ["not JSON\n"])
    assert len(load_problems(tmp_path, "train")) + len(load_problems(tmp_path, "dev")) == 60
    with pytest.raises(DataError, match=r"test\.jsonl, line 1"):
        load_problems(tmp_path, "test")


def test_a_test_file_serves_test_only(tmp_path):
    file = write(tmp_path / "test_500.jsonl", ROWS)
    assert len(load_problems(file, "test")) == 60
    for split in ("train", "dev"):
        with pytest.raises(DataError, match="no train data there"):
            load_problems(file, split)


def test_a_single_file_of_any_name(tmp_path):
    file = write(tmp_path / "mine.jsonl", ROWS)
    assert len(load_problems(file, "train")) + len(load_problems(file, "dev")) == 60
    assert load_problems(file, "test", rows=2)["id"] == ["mine-test-00000", "mine-test-00001"]


def test_hub_snapshot_layout_with_shards(tmp_path):
    write(tmp_path / "main" / "train-00001-of-00002.parquet", ROWS[40:])
    write(tmp_path / "main" / "train-00000-of-00002.parquet", ROWS[:40])
    assert [row["question"] for row in read_split(tmp_path, "all-train")] == [row["question"] for row in ROWS]


def test_two_formats_of_one_split_are_refused(tmp_path):
    write(tmp_path / "train.parquet", ROWS)
    write(tmp_path / "train.jsonl", ROWS)
    with pytest.raises(DataError, match=r"train\.jsonl, train\.parquet"):
        load_problems(tmp_path, "train")


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([ROWS[0], '{"question": "half\n'], r"train\.jsonl, line 2: not JSON"),
        ([ROWS[0], "\n", "[1]\n"], r"train\.jsonl, line 3: a list, not an object"),
        ([{"problem": "x", "answer": "1"}], r"line 1: no 'question', only \['answer', 'problem'\]"),
        ([ROWS[0], {"question": "x", "answer": 7}], "line 2: 'answer' is 7; it must be text"),
        ([ROWS[0], {"question": " ", "answer": "7"}], "line 2: 'question' is ' '"),
        ([{**ROWS[0], "id": "a"}, {**ROWS[1], "id": "a"}], "line 2: id 'a' occurs twice"),
        ([], "is empty"),
    ],
)
def test_bad_lines_are_named(tmp_path, lines, message):
    write(tmp_path / "train.jsonl", lines)
    with pytest.raises(DataError, match=message):
        load_problems(tmp_path, "train")


def test_bytes_that_are_no_text(tmp_path):
    (tmp_path / "train.jsonl").write_bytes(b'\xef\xbb\xbf{"question": "q", "answer": "#### 1"}\n{"question": "\xff"}\n')
    with pytest.raises(DataError, match=r"line 2: not JSON .*utf-8"):
        load_problems(tmp_path, "train")


def test_bad_parquet_and_bad_names(tmp_path):
    (tmp_path / "train.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(DataError, match=r"train\.parquet: not a readable parquet file"):
        load_problems(tmp_path, "train")
    write(tmp_path / "c" / "train.parquet", [{"q": "x"}])
    with pytest.raises(DataError, match="row 0: no 'question'"):
        load_problems(tmp_path / "c", "train")
    with pytest.raises(DataError, match="no such file or folder, and not a hub id"):
        load_problems(tmp_path / "nothing", "train")
    (tmp_path / "x.csv").write_text("question,answer\n")
    with pytest.raises(DataError, match=r"only \.jsonl and \.parquet"):
        load_problems(tmp_path / "x.csv", "train")
    with pytest.raises(DataError, match="split is 'valid'"):
        load_problems(tmp_path, "valid")


def test_a_missing_relative_path_may_be_meant_as_a_hub_id(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HOME", str(tmp_path))

    def unreachable(*_, **__):
        raise httpx.ConnectError("no network")

    monkeypatch.setattr(huggingface_hub.HfApi, "repo_info", unreachable)
    before = huggingface_hub.constants.HF_HUB_OFFLINE
    with pytest.raises(DataError, match="data/gsm9k: no such file or folder here, and the hub does not answer"):
        load_problems("data/gsm9k", "train")
    assert before == huggingface_hub.constants.HF_HUB_OFFLINE


def test_an_unknown_hub_id_is_said_to_be_unknown(monkeypatch):
    def unknown(*_, **__):
        response = httpx.Response(404, request=httpx.Request("GET", "https://hub"))
        raise huggingface_hub.errors.RepositoryNotFoundError("404", response=response)

    monkeypatch.setattr(huggingface_hub.HfApi, "repo_info", unknown)
    with pytest.raises(DataError, match="and no such dataset on the hub; give a local folder"):
        load_problems("openai/gsm9k", "train")


def test_generated_rows_and_seed():
    dev = load_problems("generated", "dev", rows=30, seed=4)
    assert len(dev) == 30
    assert dev.column_names == ["id", "question", "answer"]
    assert load_problems("generated", "dev", rows=3, seed=4).to_list() == dev.to_list()[:3]
    with pytest.raises(DataError, match="ask for fewer"):
        load_problems("generated", "dev", rows=8_000)
