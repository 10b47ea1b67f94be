"""The cards a plan is made for: as written, and as a driver's tool reports them."""

import sys

import pytest

from areal_gsm8k.machine import cards
from areal_gsm8k.plan.memory import GPU

TOOL = """#!{python}
import sys
ROWS = {rows}
asked = next((word.partition("=")[2].split(",") for word in sys.argv if word.startswith("--query-gpu=")), None)
for row in ROWS:
    listed = "GPU {{index}}: NVIDIA L4 (UUID: {{uuid}})".format(**row)
    print(", ".join(str(row[name]) for name in asked) if asked else listed)
"""


@pytest.fixture
def nvidia_smi(tmp_path, monkeypatch):
    """A driver tool that lists cards of so many MiB, so many of them in use."""

    def put(*memories: tuple[int, int]) -> None:
        rows = [
            {"index": i, "uuid": f"GPU-{i}", "memory.total": total, "memory.used": used}
            for i, (total, used) in enumerate(memories)
        ]
        tool = tmp_path / "nvidia-smi"
        tool.write_text(TOOL.format(python=sys.executable, rows=rows))
        tool.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    return put


def test_this_machines_cards_come_with_what_is_in_use(nvidia_smi):
    nvidia_smi((24576, 3072), (81920, 512))
    assert cards.here() == [GPU(24.0, 3.0), GPU(80.0, 0.5)]


def test_no_driver_no_cards(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert cards.here() == []


def test_cards_as_written():
    assert cards.read("24", "--gpu") == [GPU(24.0)]
    assert cards.read("2x79.6", "--gpus") == [GPU(79.6)] * 2
    for wrong in ("", "0", "0x24", "24x", "-8", "nan"):
        with pytest.raises(ValueError, match="--gpus"):
            cards.read(wrong, "--gpus")
