"""Every key a configuration may hold, with its type: AReaL's, generated once, and ours.

Checking keys must not cost AReaL's import (10 s and more), so `areal_schema.json` holds AReaL's keys, generated
from its dataclasses; a test holds the file against the installed AReaL. Regenerate after changing the AReaL pin:
`python -m areal_gsm8k.training.areal_schema`
"""

import dataclasses
import difflib
import json
import types
import typing
from functools import cache
from pathlib import Path

from areal_gsm8k.settings import Settings

SCHEMA_FILE = Path(__file__).with_name("areal_schema.json")
ANYTHING = "any"  # a dict or list whose inside is not checked here (AReaL checks it)


class ConfigError(ValueError):
    """A configuration that cannot run; the message names the key, what was found and what to do."""


def describe(config_class: type) -> dict[str, str]:
    """Flatten a dataclass into {dotted key: type}, e.g. {"actor.optimizer.lr": "float"}; `?` marks optional types."""
    keys: dict[str, str] = {}
    hints = typing.get_type_hints(config_class)
    for declared in dataclasses.fields(config_class):
        inner, optional = _unwrap(hints[declared.name])
        mark = "?" if optional else ""
        if dataclasses.is_dataclass(inner):
            keys[declared.name] = f"section{mark}"
            keys |= {f"{declared.name}.{key}": kind for key, kind in describe(inner).items()}
        else:
            kind = inner.__name__ if inner in (bool, int, float, str) else ANYTHING
            keys[declared.name] = kind + mark
    return keys


def _unwrap(hint) -> tuple[type, bool]:
    """`int | None` -> (int, True); anything else -> (it, False)."""
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        rest = [part for part in typing.get_args(hint) if part is not type(None)]
        if len(rest) == 1:
            return rest[0], True
        return object, True
    return hint, False


@cache
def known_keys() -> dict[str, str]:
    """All keys that may stand in a resolved configuration, with their types."""
    return json.loads(SCHEMA_FILE.read_text()) | describe(Settings)


def check_keys(values: dict, extra: typing.Iterable[str] = (), where: str = "") -> None:
    """Raise ConfigError at the first unknown key or value of a wrong type.

    `values` is a nested dict as read from YAML; `extra` are further names accepted (our aliases, checked elsewhere);
    `where` is what the message calls the source, e.g. a file name.
    """
    known = known_keys()
    extra = set(extra)
    for key, value in _flatten(values, known, extra):
        if key in extra:
            continue
        if key not in known:
            raise ConfigError(f"{where}unknown key {key!r}.{_nearest(key, [*known, *extra])}")
        _check_type(key, value, known[key], where)


def _flatten(values: dict, known: dict[str, str], extra: set[str], prefix: str = ""):
    for name, value in values.items():
        if "." in str(name):
            nested = str(name).replace(".", ": {", 1) + ": ...}"
            raise ConfigError(f"{prefix}{name}: dots work on the command line only; in a file write {nested}")
        key = f"{prefix}{name}"
        inside = isinstance(value, dict) and key not in extra and known.get(key, "section").startswith("section")
        if inside and value:
            if key not in known and not any(k.startswith(f"{key}.") for k in known):
                yield key, value
            else:
                yield from _flatten(value, known, extra, f"{key}.")
        elif not inside:
            yield key, value


def _nearest(key: str, choices: list[str]) -> str:
    leaf = key.rsplit(".", 1)[-1]
    near = difflib.get_close_matches(key, choices, n=1, cutoff=0.75)
    near = near or [c for c in choices if c.rsplit(".", 1)[-1] == leaf][:1]
    near = near or difflib.get_close_matches(key, choices, n=1, cutoff=0.5)
    return f" Did you mean {near[0]!r}?" if near else " `train_grpo.yaml` shows the usual keys."


def _check_type(key: str, value, kind: str, where: str) -> None:
    optional, kind = kind.endswith("?"), kind.rstrip("?")
    if isinstance(value, str) and "${" in value:  # an interpolation: checked once resolved
        return
    if value is None:
        if optional or kind == ANYTHING:
            return
        raise ConfigError(f"{where}{key} must not be null: it takes {_article(kind)}.")
    fits = {
        "section": lambda: isinstance(value, dict),
        "bool": lambda: isinstance(value, bool),
        "int": lambda: isinstance(value, int) and not isinstance(value, bool),
        "float": lambda: isinstance(value, (int, float)) and not isinstance(value, bool),
        "str": lambda: isinstance(value, (str, int, float)) and not isinstance(value, bool),
        ANYTHING: lambda: True,
    }[kind]()
    if not fits:
        raise ConfigError(f"{where}{key} takes {_article(kind)}, found {value!r}.")


def _article(kind: str) -> str:
    return {"int": "a whole number", "float": "a number", "bool": "true or false", "str": "text"}.get(kind, f"a {kind}")
