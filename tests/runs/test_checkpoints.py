import json

from areal_gsm8k.runs import checkpoints


def test_a_folder_is_replaced_whole_and_leaves_nothing_behind(tmp_path):
    folder = tmp_path / "best"
    for weights in ("old", "new"):
        unfinished = checkpoints.partial(folder)
        unfinished.mkdir()
        (unfinished / "model.safetensors").write_text(weights)
        assert not folder.exists() or (folder / "model.safetensors").read_text() == "old"
        checkpoints.finish(unfinished, folder)
    assert (folder / "model.safetensors").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["best"]


def test_what_an_interrupted_save_left_is_swept_away(tmp_path):
    left = checkpoints.partial(tmp_path / "best")
    left.mkdir()
    (left / "half").write_text("x")
    assert not checkpoints.partial(tmp_path / "best").exists()


def test_the_tokenizer_gets_names_old_transformers_know(tmp_path):
    unfinished = checkpoints.partial(tmp_path / "best")
    unfinished.mkdir()
    new = {"tokenizer_class": "TokenizersBackend", "extra_special_tokens": ["<|user|>"]}
    (unfinished / "tokenizer_config.json").write_text(json.dumps(new))
    folder = checkpoints.finish(unfinished, tmp_path / "best")
    config = json.loads((folder / "tokenizer_config.json").read_text())
    assert config == {"tokenizer_class": "PreTrainedTokenizerFast", "additional_special_tokens": ["<|user|>"]}


def test_the_policy_version_is_noted_in_the_folder(tmp_path):
    unfinished = checkpoints.partial(tmp_path / "best")
    unfinished.mkdir()
    assert checkpoints.version(unfinished) is None
    checkpoints.note_version(unfinished, 120)
    assert checkpoints.version(checkpoints.finish(unfinished, tmp_path / "best")) == 120
    for damaged in ("", "{", "[]", "{}"):
        (tmp_path / "best" / checkpoints.VERSION).write_text(damaged)
        assert checkpoints.version(tmp_path / "best") is None
