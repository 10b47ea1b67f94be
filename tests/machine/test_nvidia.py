"""Which GPUs there are and which of them are ours, as the driver's tool and CUDA say."""

import pytest

from areal_gsm8k.machine.nvidia import listed, ours, visible

FOUR = ["GPU-a1", "GPU-a2", "GPU-b1", "GPU-c1"]


@pytest.mark.parametrize(
    ("variable", "left"),
    [
        (None, "0123"), ("", ""), ("-1", ""), ("0,2", "02"), ("3, 7,1", "3"), ("4", ""), ("1,1", "1"),
        ("GPU-c1, GPU-a2", "31"), ("GPU-b", "2"), ("GPU-a", ""), ("GPU-d", ""),
    ],
)  # fmt: skip
def test_cuda_visible_devices_is_read_as_cuda_does(variable, left):
    assert visible(FOUR, variable) == list(left)


def test_the_driver_is_asked(nvidia_smi, monkeypatch):
    nvidia_smi(*({"uuid": name} for name in FOUR))
    assert [gpu.uuid for gpu in listed()] == FOUR and ours() == ["0", "1", "2", "3"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert ours() == ["1"]
    nvidia_smi(*({"uuid": name} for name in FOUR), status=9)  # as with a driver that does not answer
    assert listed() == [] and ours() == []
