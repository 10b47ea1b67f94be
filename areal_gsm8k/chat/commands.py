"""The commands of `gsm8k chat`, as typed: name, argument, what it does. Session has a method for each."""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches

from areal_gsm8k.data.prompts import FORMATS
from areal_gsm8k.evaluation.settings import ENGINES

SWITCH = ("on", "off")


class CommandError(ValueError):
    """A command that does not exist, or a value it does not take; the message says what is allowed."""


@dataclass(frozen=True)
class Command:
    name: str
    argument: str  # as help shows it, "" for none
    does: str
    choices: tuple[str, ...] = ()  # all the values it takes, where those can be listed


COMMANDS = {
    command.name: command
    for command in (
        Command("q", "ROW", "ask a row of the data: its place in the split, from 0, or its id"),
        Command(
            "answer", "ANSWER", "grade the replies to the question asked last; after /q the row's own without ANSWER"
        ),
        Command("grade", "on|off", "show under each reply to /q whether it is right, and by which rule", SWITCH),
        Command("system", "TEXT", "system message before every question; none without TEXT"),
        Command("format", "|".join(FORMATS), "how the answer is asked for and where it must stand", tuple(FORMATS)),
        Command(
            "raw", "on|off", "send the text as it is, without chat template, instruction and system message", SWITCH
        ),
        Command("temperature", "T", "0 is greedy"),
        Command("max", "N", "longest reply, tokens"),
        Command("seed", "N|off", "of sampling: with N the same reply every time, with off another one"),
        Command("engine", "|".join(ENGINES), "close the engines and open others, or the same anew", ENGINES),
        Command("settings", "", "show all of these, and the models"),
        Command("help", "", "show this"),
        Command("quit", "", "leave; so does Ctrl-D"),
    )
}


def parse(line: str) -> tuple[Command, str]:
    """The command of a line that begins with "/", and its argument. Raises CommandError."""
    name, argument = (*line[1:].split(None, 1), "", "")[:2]
    argument = argument.strip()
    if name not in COMMANDS:
        near = [known for known in COMMANDS if name and known.startswith(name)] or get_close_matches(name, COMMANDS)
        meant = f"did you mean /{near[0]}? " if near else ""
        raise CommandError(
            f"there is no command /{name}; {meant}/help lists them (a question that begins with / needs a space before)"
        )
    command = COMMANDS[name]
    if not command.argument and argument:
        raise CommandError(f"/{name} takes nothing behind it, and found {argument!r}")
    if command.choices and argument not in command.choices:
        raise CommandError(f"{name} is {argument!r}; it must be one of {', '.join(command.choices)}")
    return command, argument


def number(name: str, argument: str, kind: type, allowed: str) -> int | float:
    """A number as typed. Raises CommandError saying what is allowed."""
    try:
        return kind(argument)
    except ValueError:
        raise CommandError(f"{name} is {argument!r}; it must be {allowed}") from None
