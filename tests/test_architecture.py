"""The order of the rooms (CONTRIBUTING.md): imports go down, never round, and one room alone knows AReaL."""

import ast
import importlib.util
from graphlib import CycleError, TopologicalSorter

import pytest

from areal_gsm8k.paths import PROJECT

PACKAGE = "areal_gsm8k"
# From the top: a room may import itself and the rooms below it. The files of the package's root stand at the bottom.
LEVELS = (
    {"cli"},
    {"launch", "doctor"},
    {"training", "report", "replay", "chat", "plan"},
    {"evaluation", "config"},
    {"sft", "watch"},
    {"serve", "grading", "runs"},
    {"machine", "data"},
)
HEIGHT = {room: -number for number, rooms in enumerate(LEVELS) for room in rooms}
SCRIPTS = [PROJECT / f"{name}.py" for name in ("math_parser", "train_grpo", "train_local_simple", "train_hf_trainer")]
FILES = [*sorted((PROJECT / PACKAGE).rglob("*.py")), *SCRIPTS]
MODULES = {".".join(file.relative_to(PROJECT).with_suffix("").parts).removesuffix(".__init__"): file for file in FILES}


def imported(module: str) -> set[str]:
    """Every module that the file names in an import, wherever in it: full names, ours down to the file."""
    file = MODULES[module]
    package = module if file.name == "__init__.py" else module.rpartition(".")[0]
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            source = importlib.util.resolve_name("." * node.level + (node.module or ""), package)
            full = {f"{source}.{name.name}" for name in node.names}
            found |= (full & MODULES.keys()) or {source}
    return found - {module}


def room(module: str) -> str:
    """The folder of one of the package's files; "" for those of its root."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 and (PROJECT / PACKAGE / parts[1]).is_dir() else ""


def test_every_room_has_its_level():
    rooms = {folder.parent.name for folder in (PROJECT / PACKAGE).glob("*/__init__.py")}
    assert rooms == HEIGHT.keys()


def test_imports_go_down():
    bottom = -len(LEVELS)
    for module in MODULES:
        if not module.startswith(f"{PACKAGE}."):
            continue
        for other in imported(module) & MODULES.keys():
            one, two = room(module), room(other)
            if module == f"{PACKAGE}.__main__" or other == "math_parser" or one == two:
                continue
            assert HEIGHT.get(one, bottom) > HEIGHT.get(two, bottom), f"{module} imports {other}"


def test_no_import_goes_round():
    graph = {module: imported(module) & MODULES.keys() for module in MODULES}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as circle:
        pytest.fail(" -> ".join(circle.args[1]))


def test_training_alone_imports_areal():
    for module in MODULES:
        if any(name.partition(".")[0] == "areal" for name in imported(module)):
            assert room(module) == "training" or module == "train_grpo", module
