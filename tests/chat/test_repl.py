"""The prompt, typed at through prompt_toolkit's own pipe: keys, completion, history, and how to get out."""

from types import SimpleNamespace

import pytest
from prompt_toolkit.application import create_app_session
from prompt_toolkit.completion import CompleteEvent
from prompt_toolkit.document import Document
from prompt_toolkit.history import FileHistory, InMemoryHistory
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.output import DummyOutput

from areal_gsm8k.chat import repl

ALT_ENTER, CTRL_C, CTRL_D = "\x1b\r", "\x03", "\x04"


class Heard:
    """Stands in for a session: notes what it is given; `stop` is Ctrl-C while replies stream."""

    def __init__(self):
        self.lines, self.notes, self.said = [], [], []
        self.view = SimpleNamespace(note=self.notes.append, say=self.said.append)

    def values(self):
        return {"format": "hash", "temperature": "0 (greedy)", "system": "none"}

    def handle(self, line):
        self.lines.append(line)
        if line == "stop":
            raise KeyboardInterrupt
        return line != "/quit"


@pytest.fixture
def typed():
    """Types keys at the prompt and returns what the session heard."""

    def type_keys(keys, history=None):
        heard = Heard()
        with create_pipe_input() as keyboard, create_app_session(input=keyboard, output=DummyOutput()):
            keyboard.send_text(keys)
            repl.prompted(heard, history or InMemoryHistory())
        return heard

    return type_keys


def test_enter_sends_alt_enter_begins_a_line_and_ctrl_d_leaves(typed):
    assert typed(f"one\rtwo{ALT_ENTER}lines\r  \r{CTRL_D}").lines == ["one", "two\nlines"]


def test_a_pasted_text_is_one_question(typed):
    assert typed(f"\x1b[200~first\nsecond\x1b[201~\r{CTRL_D}").lines == ["first\nsecond"]


def test_quit_leaves(typed):
    assert typed("/quit\rnever\r").lines == ["/quit"]


def test_ctrl_c_empties_the_line_and_at_an_empty_one_says_how_to_leave(typed):
    heard = typed(f"half{CTRL_C}whole\r{CTRL_D}")
    assert heard.lines == ["whole"] and heard.notes == []
    assert typed(f"{CTRL_C}{CTRL_D}").notes == ["Ctrl-D or /quit leaves."]


def test_ctrl_c_while_replies_stream_returns_to_the_prompt(typed):
    assert typed(f"stop\rnext\r{CTRL_D}").lines == ["stop", "next"]


def test_what_was_asked_before_comes_back(typed, tmp_path, monkeypatch):
    monkeypatch.setattr(repl.sys, "platform", "linux")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    typed(f"a question\r{CTRL_D}", repl.history())
    assert isinstance(repl.history(), FileHistory) and (tmp_path / "areal-gsm8k" / "chat_history").is_file()
    assert list(repl.history().load_history_strings()) == ["a question"]


def test_without_a_writable_state_folder_the_history_is_this_conversations(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setattr(repl.sys, "platform", "linux")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    assert isinstance(repl.history(), InMemoryHistory)


@pytest.mark.parametrize(
    ("text", "offered"),
    [
        ("/te", ["temperature"]),
        ("/s", ["system", "seed", "settings"]),
        ("/format ", ["boxed", "tags", "hash"]),
        ("/grade o", ["on", "off"]),
        ("/format h", ["hash"]),
        ("/max ", []),
        ("/nonsense x", []),
        ("what is /te", []),
        ("/system a\n/te", []),
    ],
)
def test_completion_of_commands_and_their_values(text, offered):
    found = repl.CommandCompleter().get_completions(Document(text), CompleteEvent())
    assert [completion.text for completion in found] == offered


def test_lines_of_a_pipe_are_shown_above_what_came_of_them():
    heard = Heard()
    repl.read_lines(heard, ["one \r\n", "\n", "  \n", "/quit\n", "never\n"])
    assert heard.lines == ["one ", "/quit"] and heard.said == ["> one ", "> /quit"]
