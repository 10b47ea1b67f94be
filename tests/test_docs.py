"""README.md, CONTRIBUTING.md and docs/ name only what exists: files of this repository, links, modules, verbs."""

import re
from importlib.util import find_spec

import pytest
from typer.main import get_command

from areal_gsm8k.cli import app
from areal_gsm8k.paths import PROJECT

PAGES = [
    "README.md",
    "CONTRIBUTING.md",
    *sorted(page.relative_to(PROJECT).as_posix() for page in (PROJECT / "docs").rglob("*.md")),
]
FOLDERS = "areal_gsm8k|tests|configs|cluster|docker|requirements|benchmarks|docs"
OURS = rf"(?<![\w/.~-])(?:{FOLDERS})/[\w./-]*[\w/]"
THEIRS_OR_MADE = {"docs/algo/baseline.md", "docs/advance/fully_async.md", "docker/.env"}  # verl's two; the user's own


def anchors(text: str) -> set[str]:
    """The anchors that GitHub gives the page's headings."""
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES)
def test_what_a_page_names_exists(page):
    path = PROJECT / page
    text = path.read_text(encoding="utf-8")
    missing = [name for name in set(re.findall(OURS, text)) - THEIRS_OR_MADE if not (PROJECT / name).exists()]
    for target, anchor in re.findall(r"\]\((?!https?:)([^)#]*)#?([^)]*)\)", text):
        linked = path.parent / target if target else path
        if not linked.exists() or (anchor and anchor not in anchors(linked.read_text(encoding="utf-8"))):
            missing.append(f"{target}#{anchor}")
    for package, name in re.findall(r"(?:-m|from|import) ((?:areal_gsm8k|benchmarks)[.\w]*)(?: import (\w+))?", text):
        if not find_spec(package) or (name and not find_spec(f"{package}.{name}")):
            missing.append(f"{package} {name}".strip())
    verbs = get_command(app).commands
    missing += [f"gsm8k {verb}" for verb in re.findall(r"\bgsm8k ([a-z]+)(?=[ `])", text) if verb not in verbs]
    assert not missing
