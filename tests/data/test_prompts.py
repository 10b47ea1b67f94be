import pytest

from areal_gsm8k.data import generator
from areal_gsm8k.data.prompts import FORMATS, completion_ids, messages, prompt_hash, prompt_ids, stop_ids, target
from areal_gsm8k.sft import tiny

ANSWER = "He has 48/2 = <<48/2=24>>24 left.\nThen 24+1 = <<24+1=25>>25.\n#### 1,025"


@pytest.fixture
def tokenizer():
    return tiny.make_tokenizer(tiny.TinySettings(), generator.noisy_corpus(60, seed=1))


def test_targets_of_the_three_formats():
    plain = "He has 48/2 = 24 left.\nThen 24+1 = 25."
    assert target(ANSWER, "hash") == ANSWER
    assert target(ANSWER, "boxed") == plain + "\nThe answer is \\boxed{1,025}."
    assert target(ANSWER, "tags") == f"<think>{plain}</think><answer>1,025</answer>"


def test_target_of_a_bare_number():
    assert target("72", "hash") == "#### 72"
    assert target(" 72 ", "tags") == "<think></think><answer>72</answer>"


def test_only_the_chosen_instruction_is_asked_for():
    for name in FORMATS:
        content = messages("Why?", name)[0]["content"]
        assert [other for other, shape in FORMATS.items() if shape.instruction in content] == [name]
    assert [m["role"] for m in messages("Why?", "hash", system="Be brief.")] == ["system", "user"]
    with pytest.raises(ValueError, match="'box'; it must be one of boxed, tags, hash"):
        messages("Why?", "box")


def test_prompt_through_the_chat_template(tokenizer):
    ids = prompt_ids(tokenizer, "How many?", "hash", system="Hi.")
    assert isinstance(ids, list)
    assert isinstance(ids[0], int)
    assert tokenizer.decode(ids) == "<|user|>Hi.<|user|>How many?\nEnd with #### and the number.<|assistant|>"


def test_thinking_is_switched_off_where_the_template_takes_it(tokenizer):
    tokenizer.chat_template = "{{ messages[0]['content'] }}{% if enable_thinking is false %} no thinking{% endif %}"
    assert tokenizer.decode(prompt_ids(tokenizer, "How many?", "hash")).endswith(" no thinking")


def test_plain_prompt_without_a_template(tokenizer):
    tokenizer.chat_template = None
    ids = prompt_ids(tokenizer, "How many?", "hash", system="Be brief.")
    assert tokenizer.decode(ids) == "Be brief.\nQuestion: How many?\nEnd with #### and the number.\nAnswer:"
    completion = completion_ids(tokenizer, "#### 7", "hash")
    assert tokenizer.decode(ids + completion).endswith("Answer: #### 7<|eos|>")


def test_completion_ends_with_the_end_of_sequence(tokenizer):
    ids = completion_ids(tokenizer, ANSWER, "hash")
    assert ids[-1] == tokenizer.eos_token_id
    assert tokenizer.decode(ids[:-1]) == ANSWER


def test_stop_ids_are_the_eos_and_known_turn_ends(tokenizer):
    assert stop_ids(tokenizer) == [tokenizer.eos_token_id]
    tokenizer.add_tokens(["<|im_end|>"], special_tokens=True)
    assert stop_ids(tokenizer) == [tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids("<|im_end|>")]


def test_prompt_hash_follows_the_words():
    hashes = {prompt_hash(name, system) for name in FORMATS for system in (None, "Be brief.")}
    assert len(hashes) == 6
    assert prompt_hash("hash") == prompt_hash("hash", None)
    assert all(len(value) == 12 for value in hashes)
