"""Answer formats and prompts: the only place that knows how a model is asked and where its answer must stand.

A question becomes chat messages, then token ids through the tokenizer's chat template; a tokenizer without one gets the
plain "Question: ... Answer:" form. SFT, GRPO rollouts and evaluation all come here, so all three see one prompt.
`answer_format=boxed|tags|hash` in the configuration and `--answer-format` on the command line choose among FORMATS.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass

CALCULATOR_NOTE = re.compile(r"<<[^<>]*>>")
# Ends of a turn in the chat templates in use; a model without one of these in its vocabulary simply lacks it.
TURN_ENDS = ("<|im_end|>", "<|eot_id|>", "<|end_of_turn|>", "<end_of_turn>", "<|end|>", "<|endoftext|>", "<|eom_id|>")


@dataclass(frozen=True)
class AnswerFormat:
    """name; instruction (follows the question in the prompt); render(steps, final) -> the completion SFT teaches."""

    name: str
    instruction: str
    render: Callable[[str, str], str]


FORMATS: dict[str, AnswerFormat] = {
    "boxed": AnswerFormat(
        "boxed",
        "Please reason step by step, and put your final answer within \\boxed{}.",
        lambda steps, final: f"{steps}\nThe answer is \\boxed{{{final}}}.",
    ),
    "tags": AnswerFormat(
        "tags",
        "Reason step by step between <think> and </think>, then write only the number between <answer> and </answer>.",
        lambda steps, final: f"<think>{steps}</think><answer>{final}</answer>",
    ),
    "hash": AnswerFormat("hash", "End with #### and the number.", lambda steps, final: f"{steps}\n#### {final}"),
}


def answer_format_named(name: str) -> AnswerFormat:
    """The format of that name. Raises ValueError listing the names there are."""
    if name not in FORMATS:
        raise ValueError(f"answer_format is {name!r}; it must be one of {', '.join(FORMATS)}")
    return FORMATS[name]


def messages(question: str, answer_format: str, system: str | None = None) -> list[dict]:
    """Chat messages that ask the question: an optional system message, then the question with the instruction."""
    user = {"role": "user", "content": f"{question.strip()}\n{answer_format_named(answer_format).instruction}"}
    return [{"role": "system", "content": system}, user] if system else [user]


def prompt_ids(tokenizer, question: str, answer_format: str, system: str | None = None) -> list[int]:
    """Token ids of the prompt, ready for the completion to follow.

    A template that takes `enable_thinking` gets False: the answer formats here say themselves where reasoning goes.
    """
    chat = messages(question, answer_format, system)
    template = getattr(tokenizer, "chat_template", None)
    if not template:
        text = "\n".join([system] * bool(system) + [f"Question: {chat[-1]['content']}", "Answer:"])
        return text_ids(tokenizer, text)
    options = {"enable_thinking": False} if "enable_thinking" in str(template) else {}
    # return_dict=False: transformers 5 would answer with a BatchEncoding
    ids = tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=True, return_dict=False, **options)
    return list(ids)


def text_ids(tokenizer, text: str) -> list[int]:
    """Token ids of plain text that is to be continued: without the end-of-sequence id that some tokenizers append."""
    ids = list(tokenizer(text)["input_ids"])
    return ids[:-1] if len(ids) > 1 and ids[-1] == tokenizer.eos_token_id else ids


def target(answer: str, answer_format: str) -> str:
    """A worked solution ending in "#### N" rewritten to end as the format asks: the completion that SFT teaches.

    GSM8K's <<48/2=24>> calculator notes stay in `hash`, the data set's own form; the other two formats leave them out,
    as instruction-tuned models do. An answer without "####" (a bare number) is taken as the final answer alone.
    """
    shape = answer_format_named(answer_format)
    steps, marker, final = answer.strip().rpartition("####")
    final = final.strip()
    steps = steps.strip() if marker else ""
    if shape.name != "hash":
        steps = CALCULATOR_NOTE.sub("", steps)
    return shape.render(steps, final).strip()


def completion_ids(tokenizer, answer: str, answer_format: str) -> list[int]:
    """Token ids of `target(answer)` with the end-of-sequence id, to be put after `prompt_ids`."""
    text = target(answer, answer_format)
    if not getattr(tokenizer, "chat_template", None):
        text = " " + text  # after "Answer:"
    ids = list(tokenizer(text, add_special_tokens=False)["input_ids"])
    return ids if tokenizer.eos_token_id is None else [*ids, tokenizer.eos_token_id]


def sampled_ids(tokenizer, completion: str, ended: bool) -> list[int]:
    """The ids a sampled completion usually had: those of its text, and end-of-sequence where it ended by itself.

    A model may also have sampled the text in other pieces, or ended it otherwise; then the record of the sample holds
    completion_ids.
    """
    ids = list(tokenizer(completion, add_special_tokens=False)["input_ids"])
    return [*ids, tokenizer.eos_token_id] if ended else ids


def stop_ids(tokenizer) -> list[int]:
    """Ids at which generation ends: the end-of-sequence id and every end-of-turn token in the vocabulary, ascending."""
    vocabulary = tokenizer.get_vocab()
    ids = {vocabulary[token] for token in TURN_ENDS if token in vocabulary}
    if tokenizer.eos_token_id is not None:
        ids.add(tokenizer.eos_token_id)
    return sorted(ids)


def configured_stop_ids(model) -> set[int]:
    """The end-of-sequence ids that a model's own configurations name, for itself and for generating."""
    found: set[int] = set()
    for source in (model.config, model.generation_config):
        ids = getattr(source, "eos_token_id", None)
        found.update([ids] if isinstance(ids, int) else ids or [])
    return found


def prompt_hash(answer_format: str, system: str | None = None) -> str:
    """Twelve hex digits that change when the words around a question change; printed on evaluation cards."""
    form = json.dumps(messages("{question}", answer_format, system), sort_keys=True)
    return hashlib.sha256(form.encode()).hexdigest()[:12]
