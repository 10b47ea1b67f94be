from types import SimpleNamespace

import pytest

pytest.importorskip("areal", reason="areal is not installed")


def test_a_prompt_too_long_for_a_microbatch_is_named_before_training(untrained_model):
    from transformers import AutoTokenizer

    from areal_gsm8k.loop.run_config import check_lengths
    from areal_gsm8k.prompts import prompt_ids

    tokenizer = AutoTokenizer.from_pretrained(untrained_model)
    rows = [{"id": "short", "question": "1+1?"}, {"id": "long", "question": "how many? " * 40}]
    longest = len(prompt_ids(tokenizer, rows[1]["question"], "hash"))

    def config(budget):
        return SimpleNamespace(
            answer_format="hash",
            system_prompt=None,
            gconfig=SimpleNamespace(max_new_tokens=48),
            actor=SimpleNamespace(mb_spec=SimpleNamespace(max_tokens_per_mb=budget)),
        )

    check_lengths(config(longest + 48), tokenizer, rows)
    with pytest.raises(SystemExit, match=f"row long .*that key must be {longest + 48}"):
        check_lengths(config(longest + 47), tokenizer, rows)
