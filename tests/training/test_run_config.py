from types import SimpleNamespace

import pytest

pytest.importorskip("areal", reason="areal is not installed")


def test_a_prompt_too_long_is_named_before_training(untrained_model):
    from transformers import AutoTokenizer

    from areal_gsm8k.data.prompts import prompt_ids
    from areal_gsm8k.training.run_config import check_lengths

    tokenizer = AutoTokenizer.from_pretrained(untrained_model)
    rows = [{"id": "short", "question": "1+1?"}, {"id": "long", "question": "how many? " * 40}]
    longest = len(prompt_ids(tokenizer, rows[1]["question"], "hash"))

    def config(budget=4096, backend="embedded", context=4096, evaluated=48):
        return SimpleNamespace(
            answer_format="hash",
            system_prompt=None,
            gconfig=SimpleNamespace(max_new_tokens=48),
            eval_gconfig=SimpleNamespace(max_new_tokens=evaluated),
            actor=SimpleNamespace(mb_spec=SimpleNamespace(max_tokens_per_mb=budget)),
            rollout=SimpleNamespace(backend=f"{backend}:d1p1t1"),
            sglang=SimpleNamespace(context_length=context),
            vllm=SimpleNamespace(max_model_len=context),
        )

    full = longest + 48
    for fits, too_small, key in (
        (config(full), config(full - 1), f"max_tokens_per_mb={full - 1}; that key must be {full}"),
        (config(context=1), config(full - 1), "max_tokens_per_mb"),
        (config(backend="vllm", context=full), config(backend="vllm", context=full - 1), "vllm.max_model_len"),
        (
            config(backend="sglang", context=full + 1),
            config(backend="sglang", context=full),  # refuses its exact context
            f"sglang.context_length={full}; that key must be {full + 1}",
        ),
    ):
        check_lengths(fits, tokenizer, rows, rows)
        with pytest.raises(SystemExit, match=f"row long .*{key}"):
            check_lengths(too_small, tokenizer, rows, rows)
    longer_answers = config(backend="vllm", context=full, evaluated=49)
    check_lengths(longer_answers, tokenizer, rows, rows[:1])
    with pytest.raises(SystemExit, match=r"row long .*eval_gconfig.max_new_tokens=49 .*vllm.max_model_len"):
        check_lengths(longer_answers, tokenizer, rows, rows)
    check_lengths(config(backend="sglang", context=None), tokenizer, rows, rows)
