"""Hands pip's own settings on to uv, which does not read them: find-links, index, proxy, certificates.

Prints shell lines, `export UV_FIND_LINKS=...`, for every setting that pip has and uv has not; `run` evaluates them:

    eval "$(.venv/bin/python requirements/pip_settings.py)"
"""

import ast
import os
import shlex
import subprocess
import sys

# pip's name -> (uv's variable, what stands between several values, variables that say uv has a setting of its own)
HANDED_ON = {
    "find-links": ("UV_FIND_LINKS", ",", ["UV_FIND_LINKS"]),
    "index-url": ("UV_DEFAULT_INDEX", "", ["UV_DEFAULT_INDEX", "UV_INDEX_URL"]),
    "proxy": ("ALL_PROXY", "", ["ALL_PROXY", "HTTPS_PROXY", "https_proxy", "all_proxy"]),
    "cert": ("SSL_CERT_FILE", "", ["SSL_CERT_FILE"]),
}
# pip's order: a section for one command beats [global], the environment beats both
SECTIONS = ["global", "install", ":env:"]


def settings(listing: str) -> dict[str, list[str]]:
    """Reads `pip config list`, lines such as `global.find-links='/a /b'`, into name -> values."""
    found: dict[str, tuple[int, list[str]]] = {}
    for line in listing.splitlines():
        key, _, quoted = line.partition("=")
        section, _, name = key.strip().rpartition(".")
        if name not in HANDED_ON or section not in SECTIONS:
            continue
        values = str(ast.literal_eval(quoted)).split()
        rank = SECTIONS.index(section)
        if values and rank >= found.get(name, (-1, []))[0]:
            found[name] = (rank, values)
    return {name: values for name, (_, values) in found.items()}


def exports(found: dict[str, list[str]], environment: dict[str, str]) -> list[str]:
    """The shell lines for settings that uv does not have already."""
    lines = []
    for name, values in found.items():
        variable, between, own = HANDED_ON[name]
        if not any(environment.get(other) for other in own):
            value = between.join(values) if between else values[-1]
            lines.append(f"export {variable}={shlex.quote(value)}")
    return lines


if __name__ == "__main__":
    listing = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=False
    )
    print("\n".join(exports(settings(listing.stdout), dict(os.environ))))
