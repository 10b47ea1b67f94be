"""Replies on the screen: layouts, what is drawn while they grow, and texts that try to steer the terminal."""

import io
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from areal_gsm8k.chat.reply import Reply
from areal_gsm8k.chat.view import TerminalView
from areal_gsm8k.evaluation.engine import Answer
from areal_gsm8k.terminal_safe import printable

EVIL = "\x1b[2J\x1b]0;owned\x07 [bold red]18[/bold red] \x9b31m [/] \u202e81 \x08\r\ud800 :smile:"


def screen(width=100, height=20, terminal=True):
    """A view, and a function that gives what stands on its console."""
    out = io.StringIO()
    console = Console(file=out, force_terminal=terminal, width=width, height=height, _environ={"TERM": "xterm"})
    return TerminalView(console, Console(file=io.StringIO())), out.getvalue


def complete(name, text):
    reply = Reply(name)
    reply.end(Answer(text, 7))
    return reply


def plain(shown):
    """Without rich's own sequences."""
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown)


@given(st.text() | st.lists(st.sampled_from("\x1b[]0;\x07\x9b\x00\r\n\t\x7f\u202e\ud800a")).map("".join))
def test_nothing_in_a_text_steers_the_terminal(text):
    shown = printable(text)
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", shown)
    shown.encode()  # no lone surrogates
    assert printable(shown) == shown


def test_what_would_steer_is_shown():
    assert printable("a\x1b[31mb\x1b]0;t\x07\x9bé 小\t|\r\nc\r") == "a␛[31mb␛]0;t␇<U+009B>é 小\t|\nc␍"


@pytest.mark.parametrize("terminal", [True, False])
@pytest.mark.parametrize("count", [1, 2])
def test_an_evil_completion_is_text(terminal, count):
    view, shown = screen(terminal=terminal)
    replies = [complete(EVIL, EVIL) for _ in range(count)]
    replies[0].grade(EVIL, "hash")
    with view.following(replies):
        pass
    view.show(replies)
    found = shown()
    assert not re.search(r"\x1b\]|\x1b\[2J|\x07|\x9b|\u202e|\ud800|\r(?!\x1b)", found)
    if terminal:  # between them only what rich writes itself: colours, cursor, erasing its own lines
        assert set(re.findall(r"\x1b(?!\[[0-9;]*m|\[\?25[lh]|\[[0-9]*[AK])", found)) == set()
    else:
        assert "\x1b" not in found
    assert plain(found).count("␛[2J␛]0;owned␇ [bold red]18[/bold red]") >= count
    assert ":smile:" in plain(found)


def test_side_by_side_where_there_is_room():
    view, shown = screen(width=80)
    view.show([complete("left", "one\ntwo"), complete("right", "word " * 30 + "小" * 40)])
    lines = plain(shown()).splitlines()
    assert any("left" in line and "right" in line for line in lines)
    assert any("two" in line and "word" in line for line in lines)
    assert max(map(cell_len, lines)) <= 80 and plain(shown()).count("小") == 40


@pytest.mark.parametrize(("width", "terminal"), [(63, True), (200, False)])
def test_one_under_the_other_on_a_narrow_terminal_and_without_one(width, terminal):
    view, shown = screen(width, terminal=terminal)
    long = "a long line " * 40
    view.show([complete("left", "one\ntwo"), complete("right", long)])
    left, _, right = plain(shown()).partition("right\n")
    assert left.startswith("left\none\ntwo\n7 tokens, ")
    assert right.startswith(long.rstrip())  # lines are the terminal's to wrap, and a script's to keep


def test_the_verdict_stands_under_its_reply():
    view, shown = screen(terminal=False)
    reply = complete("m", "so 17")
    reply.grade("#### 18", "hash")
    view.show([reply])
    lines = ["verdict    wrong", "rule       last_number", "extracted  17", "value      17", "reference  18"]
    assert "\n".join([*lines, "formatted  no"]) in shown()


def test_a_long_error_has_one_line_in_its_column_and_the_rest_below():
    view, shown = screen(width=100)
    dead = Reply("dead")
    dead.end(Answer(error="server died.\n  log, which ends:\n    Segmentation fault"))
    view.show([dead, complete("well", "fine")])
    assert "failed: server died." in plain(shown()) and "Segmentation" not in shown()
    assert "dead: server died.\n  log, which ends:\n    Segmentation fault" in view.notes.file.getvalue()


@pytest.mark.parametrize("width", [100, 40])
def test_while_they_grow_the_last_lines_that_fit_are_drawn(width):
    view, shown = screen(width, height=12)
    replies = [Reply("left"), Reply("right")]
    with view.following(replies):
        for reply in replies:
            reply.grow("\n".join(f"line {i}." for i in range(100)))
    drawn = plain(shown())
    assert drawn.count("line 99.") >= 2 and "line 90." not in drawn


def test_without_a_terminal_nothing_is_drawn_before_the_end():
    view, shown = screen(terminal=False)
    replies = [Reply("m")]
    with view.following(replies):
        replies[0].grow("half")
    assert shown() == ""
