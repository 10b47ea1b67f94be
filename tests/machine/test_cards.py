"""The cards a plan is made for: as written, and as a driver's tool reports them."""

import pytest

from areal_gsm8k.machine import cards
from areal_gsm8k.machine.cards import CardMemory


def test_this_machines_cards_come_with_what_is_in_use(nvidia_smi):
    nvidia_smi({"memory.total": 24576, "memory.used": 3072}, {"memory.total": 81920, "memory.used": 512})
    assert cards.here() == [CardMemory(24.0, 3.0), CardMemory(80.0, 0.5)]
    nvidia_smi({"memory.total": "[N/A]", "memory.used": "[N/A]"}, {"memory.total": 81920, "memory.used": 512})
    assert cards.here() == [CardMemory(80.0, 0.5)]  # the first shares the processor's, and how much is not told


def test_no_driver_no_cards(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert cards.here() == []


def test_cards_as_written():
    assert cards.read("24", "--gpu") == [CardMemory(24.0)]
    assert cards.read("2x79.6", "--gpus") == [CardMemory(79.6)] * 2
    for wrong in ("", "0", "0x24", "24x", "-8", "nan"):
        with pytest.raises(ValueError, match="--gpus"):
            cards.read(wrong, "--gpus")
