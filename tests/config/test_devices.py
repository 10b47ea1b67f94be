import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from areal_gsm8k.config.allocation import Allocation, Side, parse
from areal_gsm8k.config.devices import check, for_areal, nearest
from areal_gsm8k.config.schema import ConfigError

sizes = st.integers(1, 12)
allocations = st.builds(
    Allocation,
    st.builds(Side, st.sampled_from(["sglang", "vllm"]), sizes, st.integers(1, 3), sizes),
    st.builds(Side, st.just("fsdp"), sizes, st.just(1), sizes),
)
DIMENSIONS = ("data", "pipeline", "tensor")


@given(allocations, st.integers(1, 40))
def test_the_suggestion_runs_and_is_nowhere_larger(asked, gpus):
    suggested = nearest(asked, gpus)
    check(suggested, gpus, "disk")
    for old, new in ((asked.rollout, suggested.rollout), (asked.train, suggested.train)):
        assert new.backend == old.backend
        assert all(getattr(new, name) <= getattr(old, name) for name in DIMENSIONS)
        assert old.tensor % new.tensor == 0 and old.pipeline % new.pipeline == 0
    assert asked.train.data % suggested.train.data == 0  # so batches can still be shared out


@given(allocations)
def test_what_fits_is_its_own_nearest(asked):
    gpus = asked.rollout.devices + asked.train.devices
    assert nearest(asked, gpus) == asked
    check(asked, gpus, "xccl")


@pytest.mark.parametrize(
    ("asked", "gpus", "suggested"),
    [
        ("sglang:d4+fsdp:d4", 4, "sglang:d2p1t1+fsdp:d2p1t1"),  # the ratio is kept
        ("sglang:d6+fsdp:d2", 4, "sglang:d3p1t1+fsdp:d1p1t1"),
        ("sglang:d4+fsdp:d4", 7, "sglang:d3p1t1+fsdp:d4p1t1"),
        ("sglang:d4t2+fsdp:d4", 6, "sglang:d2p1t2+fsdp:d2p1t1"),  # tensor sizes are kept
        ("vllm:d1p2t2+fsdp:d2t2", 4, "vllm:d1p1t2+fsdp:d1p1t2"),
        ("sglang:d1t8+fsdp:d1t8", 2, "sglang:d1p1t1+fsdp:d1p1t1"),  # until they cannot be
        ("sglang:d8+fsdp:d8", 1, "sglang:d1p1t1+fsdp:d1p1t1"),  # both on the one
    ],
)
def test_too_few_gpus_name_needed_found_and_nearest(asked, gpus, suggested):
    with pytest.raises(ConfigError) as error:
        check(parse(asked), gpus, "disk")
    needed = parse(asked).rollout.devices + parse(asked).train.devices
    assert f"needs {needed} GPUs, this machine has {gpus}; nearest that would run: {suggested}" in str(error.value)


def test_one_gpu_is_shared_with_weights_by_disk_only():
    shared = parse("sglang:d1+fsdp:d1")
    check(shared, 1, "disk")
    with pytest.raises(ConfigError, match="NCCL refuses two ranks on one device; set it to disk"):
        check(shared, 1, "xccl")
    with pytest.raises(ConfigError, match=r"fsdp:d1p1t1 with actor.weight_update_mode=disk"):
        check(parse("sglang:d2+fsdp:d2"), 1, "xccl")


FOUR = [{"uuid": f"GPU-{name}"} for name in ("a1", "a2", "b1", "c1")]


def test_areal_gets_numbers_and_our_programs(nvidia_smi, monkeypatch):
    nvidia_smi(*FOUR)
    ours = for_areal()
    assert ours["CUDA_VISIBLE_DEVICES"] == "0,1,2,3" and "CUDA_DEVICE_ORDER" not in ours
    assert ours["PATH"].startswith(str(Path(sys.executable).parent) + ":")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-c1,GPU-a1")
    assert for_areal()["CUDA_VISIBLE_DEVICES"] == "3,0"
    assert for_areal()["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-77")
    with pytest.raises(ConfigError, match="CUDA_VISIBLE_DEVICES=MIG-77"):
        for_areal()


def test_no_gpu_no_environment(nvidia_smi):
    nvidia_smi(*FOUR, status=9)  # as with a driver that does not answer
    assert for_areal() == {}
