import pytest

from areal_gsm8k.runs.records import RecordReader, RecordWriter


def sample(writer, **more):
    row = {"id": writer.new_id()} | more
    writer.write(row)
    return row["id"]


def test_ids_are_unique_over_writers_and_fit_int64(tmp_path):
    writers = [RecordWriter(tmp_path) for _ in range(50)]
    ids = {writer.new_id() for writer in writers for _ in range(20)}
    assert len(ids) == 1000
    assert max(ids) < 2**63


def test_records_of_several_processes_join_in_the_order_asked(tmp_path):
    a, b, reader = RecordWriter(tmp_path), RecordWriter(tmp_path), RecordReader(tmp_path)
    first, second = sample(a, text="one"), sample(b, text="two")
    assert [row["text"] for row in reader.take([second, first])] == ["two", "one"]
    third = sample(a, text="three")
    assert [row["text"] for row in reader.take([third])] == ["three"]
    with pytest.raises(KeyError):
        reader.take([first])  # a sample is consumed once


def test_errors_and_rejected_groups_are_told_apart_from_waiting_samples(tmp_path):
    writer, reader = RecordWriter(tmp_path), RecordReader(tmp_path)
    waiting = sample(writer, text="waiting")
    sample(writer, error="ValueError: no reference")
    partial = sample(writer, text="lost its group")
    writer.reject([partial], "partial group: 1 of 2 samples")
    assert [row["rejected"] for row in reader.take_rejected()] == [
        "ValueError: no reference",
        "partial group: 1 of 2 samples",
    ]
    assert reader.take_rejected() == []
    assert reader.take([waiting])[0]["text"] == "waiting"


def test_evaluation_records_are_taken_once_even_when_they_erred(tmp_path):
    writer, reader = RecordWriter(tmp_path), RecordReader(tmp_path)
    sample(writer, evaluation=True, row="a")
    sample(writer, evaluation=True, row="b", error="x")
    sample(writer, evaluation=False, row="c")
    assert reader.take_rejected() == []
    assert {row["row"] for row in reader.take_evaluated()} == {"a", "b"}
    assert reader.take_evaluated() == []
