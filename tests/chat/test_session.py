"""A conversation without keyboard, screen and models: what is asked, what commands change, how replies are graded."""

import asyncio
import contextlib
import json
import signal

import pytest

from areal_gsm8k.chat.chat_model import ChatModel, named
from areal_gsm8k.chat.commands import COMMANDS
from areal_gsm8k.chat.reply import Reply
from areal_gsm8k.chat.rows import reader
from areal_gsm8k.chat.session import Session
from areal_gsm8k.chat.trained_with import TrainingPrompt, asked_in_training
from areal_gsm8k.children import ChildDied
from areal_gsm8k.data import prompts
from areal_gsm8k.evaluation import EvaluationError, EvaluationSettings, engines, items
from areal_gsm8k.evaluation.engine import Answer
from areal_gsm8k.evaluation.model import Model
from areal_gsm8k.runs.files import read_lines

ROWS = [{"id": f"row-{i}", "question": f"{i}+1?", "answer": f"#### {i + 1}"} for i in range(5)]


class Characters:
    """A tokenizer: one id a character, no chat template."""

    chat_template, eos_token_id = None, None

    def __call__(self, text):
        return {"input_ids": [ord(letter) for letter in text]}


class FakeModel(Model):
    tokenizer = Characters()
    context_length = 1000


class FakeEngine:
    """Says a line, raises it when it is an exception, and notes in `asked` what it got."""

    def __init__(self, line, asked):
        self.line, self.asked, self.settings = line, asked, None

    async def stream(self, request, tell):
        self.asked.append((self.settings, request))
        if isinstance(self.line, Exception):
            raise self.line
        tell(self.line)
        if self.line == "for ever":
            await asyncio.sleep(0)
            signal.raise_signal(signal.SIGINT)  # Ctrl-C
            await asyncio.Event().wait()
        return Answer(self.line, len(self.line))


class Screen:
    """A view that remembers. shown: of every showing the state, text and verdict of each reply."""

    def __init__(self):
        self.said, self.notes, self.errors, self.shown = [], [], [], []
        self.say, self.note, self.error = self.said.append, self.notes.append, self.errors.append

    def following(self, replies):
        return contextlib.nullcontext()

    def show(self, replies):
        self.shown.append([(reply.state, reply.text, reply.verdict) for reply in replies])


@pytest.fixture
def talk(monkeypatch, tmp_path):
    """Starts a session with models that say these lines. session.asked: (settings, request) in order; session.opened:
    (engine, model, models that had one at that time)."""
    asked, opened, alive = [], [], []

    @contextlib.contextmanager
    def open_fake(kind, model, settings, log):
        if isinstance(model.line, EvaluationError):
            raise model.line
        opened.append((kind, model.name, list(alive)))
        alive.append(model.name)
        yield FakeEngine(model.line, asked)
        alive.remove(model.name)

    monkeypatch.setattr(engines, "opened", open_fake)

    def start(grade=False, seed=None, **lines):
        chat_models = []
        for name, line in lines.items():
            chat_models.append(ChatModel(name, FakeModel(name, tmp_path / name)))
            object.__setattr__(chat_models[-1].model, "line", line)
        settings = EvaluationSettings(engine="hf", answer_format="hash", batch_size=1)
        rows = items.Items(ROWS, "rows", "dev", None, "", "")
        session = Session(chat_models, settings, Screen(), lambda: rows, tmp_path, grade, seed)
        session.asked, session.opened, session.alive = asked, opened, alive
        session.open()
        return session

    return start


def prompt(session):
    """The text of the prompt asked last."""
    return "".join(map(chr, session.asked[-1][1].prompt_ids))


def test_every_model_answers_the_question_as_training_asks_it(talk):
    session = talk(a="#### 1", b="two")
    assert session.handle(" How many? ")
    assert session.view.shown == [[("complete", "#### 1", None), ("complete", "two", None)]]
    assert len(session.asked) == 2
    assert prompt(session) == f"Question: How many?\n{prompts.FORMATS['hash'].instruction}\nAnswer:"
    assert not session.failed


def test_the_question_before_is_no_part_of_the_prompt(talk):
    session = talk(a="my reply")
    for question in ("first", "second"):
        session.handle(question)
    assert "second" in prompt(session) and "first" not in prompt(session) and "my reply" not in prompt(session)


def test_a_model_that_fails_says_so_and_the_others_go_on(talk):
    session = talk(bug=RuntimeError("no such layer"), dead=ChildDied("server died.\n  log: its tail"), well="fine")
    session.handle("?")
    bug, dead, well = session.replies
    assert bug.outcome == "failed: RuntimeError: no such layer"
    assert dead.outcome == "failed: server died." and "its tail\n/engine hf starts it again." in dead.error
    assert (well.state, well.text) == ("complete", "fine") and session.failed


def test_a_model_that_cannot_be_loaded_says_so_and_the_others_go_on(talk):
    session = talk(broken=EvaluationError("not weights"), well="fine")
    assert session.view.errors == ["broken: not weights"]
    session.handle("?")
    assert session.view.shown == [[("failed", "", None), ("complete", "fine", None)]]
    assert session.replies[0].error == "not weights"


def test_a_prompt_without_room_behind_it_is_not_asked(talk):
    session = talk(a="x")
    session.handle("long " * 300)
    assert "and the model's context has 1000" in session.replies[0].error and not session.asked


def test_ctrl_c_stops_the_replies_and_keeps_what_came(talk):
    session = talk(quick="done", slow="for ever")
    with pytest.raises(KeyboardInterrupt):
        session.handle("/q 1")
    assert session.view.shown == [[("complete", "done", None), ("stopped", "for ever", None)]]
    session.handle("/answer 2")
    assert session.view.shown[-1][1] == ("stopped", "for ever", None)  # half a reply is not graded
    assert not session.failed


def test_half_a_character_is_not_shown_while_a_reply_grows():
    reply = Reply("a")
    reply.grow("caf\ufffd")
    assert (reply.text, reply.state, reply.outcome) == ("caf", "writing", "...")
    reply.end(Answer("café\ufffd", 3, truncated=True))
    assert reply.text == "café\ufffd" and reply.outcome.startswith("3 tokens, cut off, ")


# -- commands ----------------------------------------------------------------------------------------------------------


def test_a_row_is_asked_by_place_or_id_and_graded(talk):
    session = talk(right="#### 3", wrong="I say 7", grade=True)
    session.handle("/q 2")
    assert session.view.said == ["row-2: 2+1?"] and "Question: 2+1?\n" in prompt(session)
    (_, _, right), (_, _, wrong) = session.view.shown[-1]
    assert (right.lenient, right.strict, right.rule, right.extracted) == (True, True, "hash", "3")
    assert (wrong.lenient, wrong.formatted, wrong.rule, wrong.value) == (False, False, "last_number", "7")
    session.handle("/q row-4")
    assert session.view.said[-1] == "row-4: 4+1?"


def test_rows_are_graded_only_when_asked_for(talk):
    session = talk(a="#### 3")
    session.handle("/q 2")
    assert session.view.shown[-1][0][2] is None
    session.handle("/answer")  # the row's own
    assert session.view.shown[-1][0][2].lenient
    session.handle("/grade on")
    session.handle("/q 0")
    assert session.view.shown[-1][0][2].reference == "1" and not session.view.shown[-1][0][2].lenient


def test_a_typed_question_is_graded_against_a_typed_answer(talk):
    session = talk(a="so #### 18")
    session.handle("/answer 18")
    assert "ask a question first" in session.view.errors[-1]
    session.handle("How many?")
    session.handle("/answer")
    assert "/answer 42" in session.view.errors[-1]
    session.handle("/answer 18 dollars")
    assert session.view.shown[-1][0][2].strict and len(session.asked) == 1


def test_settings_change_in_place(talk):
    session = talk(a="x")
    changes = ["/temperature 0.7", "/format tags", "/system Be brief.\nAnd right.", "/max 20", "/seed 9"]
    for line in changes:
        session.handle(line)
    session.handle("?")
    settings, request = session.asked[-1]
    assert (settings.temperature, settings.answer_format, request.max_new_tokens, request.seed) == (0.7, "tags", 20, 9)
    assert prompt(session).startswith("Be brief.\nAnd right.\nQuestion: ?\n") and "<answer>" in prompt(session)
    assert session.view.said == ["temperature: 0.7", "format: tags", "system: Be brief.\nAnd right.", "max: 20 tokens",
                                 "seed: 9"]  # fmt: skip
    session.handle("/system")
    session.handle("?")
    assert prompt(session).startswith("Question: ?")
    assert len(session.opened) == 1 and not session.failed  # the engine stayed


def test_raw_sends_the_text_as_it_is(talk):
    session = talk(a="x")
    for line in ("/system Be brief.", "/raw on", " 1 + 1 ="):
        session.handle(line)
    assert prompt(session) == " 1 + 1 ="


def test_without_a_seed_every_reply_is_another_draw(talk):
    session = talk(a="x", b="x")
    session.handle("?")
    session.handle("?")
    assert len({request.seed for _, request in session.asked}) == 4
    session.handle("/seed 9")
    session.handle("?")
    session.handle("/seed off")
    session.handle("?")
    assert [request.seed for _, request in session.asked[4:6]] == [9, 9]
    assert session.asked[6][1].seed != 9 != session.asked[7][1].seed


def test_another_engine_is_opened_after_all_old_ones_are_closed(talk):
    session = talk(a="x", b="y")
    session.handle("/engine embedded")
    kinds = [("hf", "a", []), ("hf", "b", ["a"]), ("embedded", "a", []), ("embedded", "b", ["a"])]
    assert session.opened == kinds and session.values()["engine"] == "embedded"
    session.handle("?")
    assert session.view.shown == [[("complete", "x", None), ("complete", "y", None)]]
    session.close()
    assert session.alive == []


def test_an_engine_that_is_not_installed_leaves_the_old_ones(talk):
    session = talk(a="x")
    session.handle("/engine vllm")
    assert "engine vllm is not installed here" in session.view.errors[-1]
    session.handle("?")
    assert session.view.shown[-1][0][:2] == ("complete", "x") and session.settings.engine == "hf"


@pytest.mark.parametrize(
    ("line", "allowed"),
    [
        ("/temperature hot", "it must be a number, 0 (greedy) or more"),
        ("/temperature nan", "it must be 0 (greedy) or more"),
        ("/temperature", "it must be a number, 0 (greedy) or more"),
        ("/max 0", "it must be at least 1"),
        ("/max many", "it must be a whole number of tokens, at least 1"),
        ("/seed -1", "it must be a whole number from 0 to 2147483647, or off"),
        ("/seed x", "it must be a whole number from 0 to 2147483647, or off"),
        ("/format latex", "it must be one of boxed, tags, hash"),
        ("/engine magic", "it must be one of auto, hf, embedded, sglang, vllm"),
        ("/grade maybe", "it must be one of on, off"),
        ("/raw", "it must be one of on, off"),
        ("/q 5", "it must be 0 to 4, or an id such as row-0"),
        ("/q ²", "it must be 0 to 4, or an id such as row-0"),
        ("/temprature 1", "did you mean /temperature?"),
        ("/te 1", "did you mean /temperature?"),
        ("/", "there is no command /; /help lists them"),
        ("/help me", "/help takes nothing behind it"),
    ],
)
def test_a_wrong_value_says_what_is_allowed(talk, line, allowed):
    session = talk(a="x")
    before = session.values()
    assert session.handle(line)
    assert len(session.view.errors) == 1 and allowed in session.view.errors[0]
    assert session.values() == before and not session.asked and session.failed


def test_help_and_settings_show_every_command(talk):
    session = talk(a="x")
    session.handle("/help")
    assert all(f"/{name}" in session.view.said[-1] for name in COMMANDS)
    assert "no model sees what was said before" in session.view.said[-1]
    session.handle("/settings")
    shown = {line.split()[0] for line in session.view.said[-1].splitlines()}
    assert shown == {"format", "system", "temperature", "max", "seed", "raw", "grade", "engine", "a"}
    assert not session.handle("/quit")


# -- what it starts from -----------------------------------------------------------------------------------------------


def test_the_test_split_is_opened_on_the_record(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    notes = []
    rows = reader("generated", "test", 1, "a, b", notes.append)
    assert not (tmp_path / "runs").exists()  # before a row is wanted
    assert len(rows().rows) == 1000
    ((opening,), _) = read_lines(tmp_path / "runs" / "test_openings.jsonl")
    assert opening["model"] == "a, b" and "opened 1 times" in notes[0]
    assert reader("generated", "dev", 1, "a", notes.append)().rows[0]["id"].startswith("generated-dev-1-")
    assert len(notes) == 1


def folder(path):
    path.mkdir(parents=True)
    (path / "config.json").write_text("{}")
    return path


def test_names_of_models(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for path in ("one/best", "two/best", "x=y", "other"):
        folder(tmp_path / path)
    assert [chat_model.name for chat_model in named(["other/", "mine=one/best", "x=y"])] == ["other", "mine", "x=y"]
    assert [chat_model.name for chat_model in named(["one/best", "two/best"])] == ["one/best", "two/best"]
    with pytest.raises(EvaluationError, match="nowhere: no such folder"):
        named(["a=nowhere"])


def test_a_run_is_asked_as_it_was_trained(tmp_path):
    grpo, sft, bare = (folder(tmp_path / path) for path in ("grpo/checkpoints/best", "sft/model", "models/bare"))
    config = {"answer_format": "tags", "system_prompt": "Think.", "seed": 4, "eval_gconfig": {"max_new_tokens": 48},
              "valid_dataset": {"path": "generated"}, "actor": {}, "gconfig": {}, "reward": {}}  # fmt: skip
    (tmp_path / "grpo" / "config.yaml").write_text(json.dumps(config))  # YAML holds JSON
    (tmp_path / "grpo" / "metrics.jsonl").touch()
    (tmp_path / "sft" / "settings.json").write_text('{"format": "hash"}')
    (tmp_path / "sft" / "train_log.jsonl").touch()
    assert asked_in_training(Model("grpo", grpo)) == TrainingPrompt("tags", "Think.", 48, "generated", 4)
    assert asked_in_training(Model("sft", sft)) == TrainingPrompt("hash")
    assert asked_in_training(Model("bare", bare)) is None
