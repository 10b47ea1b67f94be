"""What of AReaL is installed here, found without importing it, which takes seconds."""

import importlib.util
from pathlib import Path

import pytest

SHIM = "areal/launcher/local.py"  # AReaL's old launcher name; there it starts ours


def folder() -> Path | None:
    """Of the package."""
    spec = importlib.util.find_spec("areal")
    return Path(spec.origin).parent if spec and spec.origin else None


def has_shim() -> bool:
    return folder() is not None and (folder().parent / SHIM).exists()


needs_areal = pytest.mark.skipif(folder() is None, reason="areal is not installed")
needs_shim = pytest.mark.skipif(not has_shim(), reason="the project itself is not installed here, only its sources")
