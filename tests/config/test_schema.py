import json

import pytest

from areal_gsm8k.config.schema import SCHEMA_FILE, ConfigError, check_keys, describe
from areal_gsm8k.settings import Settings


def test_the_schema_file_is_the_installed_areals():
    pytest.importorskip("areal", reason="areal is not installed; the schema cannot be compared")
    from areal_gsm8k.training.areal_schema import generate

    assert json.loads(SCHEMA_FILE.read_text()) == generate()


def test_our_settings_do_not_shadow_areals_keys():
    assert not set(describe(Settings)) & set(json.loads(SCHEMA_FILE.read_text()))


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"actor": {"optimzer": {"lr": 1}}}, "'actor.optimizer"),
        ({"gconfig": {"n_sample": 4}}, "'gconfig.n_samples'"),
        ({"total_train_step": 4}, "'total_train_steps'"),
        ({"lr": 0.1}, "actor.optimizer.lr"),
        ({"actor": {"optimizer": {"lr": "fast"}}}, "actor.optimizer.lr takes a number, found 'fast'"),
        ({"gconfig": {"n_samples": 4.5}}, "gconfig.n_samples takes a whole number"),
        ({"gconfig": {"greedy": 1}}, "gconfig.greedy takes true or false"),
        ({"actor": None}, "actor must not be null"),
        ({"gconfig": 3}, "gconfig takes a section"),
        ({"answer_format": None}, "answer_format must not be null"),
        ({"gconfig.n_samples": 16}, "in a file write gconfig: {n_samples: ...}"),
    ],
)
def test_a_wrong_key_or_type_is_named_with_the_nearest_right_one(values, said):
    with pytest.raises(ConfigError, match=None) as error:
        check_keys(values)
    assert said in str(error.value)


def test_right_keys_pass():
    check_keys(
        {
            "actor": {"optimizer": {"lr": 1}, "adv_norm": None, "mb_spec": {"max_tokens_per_mb": "${x}"}},
            "total_train_steps": None,
            "train_dataset": {"dataset_kwargs": {"anything": {"goes": 1}}},
        }
    )
