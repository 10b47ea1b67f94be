import ctypes
import gc

import psutil
import pytest

from areal_gsm8k.training import heap

needs_glibc = pytest.mark.skipif(heap._trim() is None, reason="the C library has no malloc_trim")  # noqa: SLF001


@needs_glibc
def test_free_pages_between_used_ones_go_back():
    libc = ctypes.CDLL(None)
    libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
    size, process = 100_000, psutil.Process()
    blocks = [libc.malloc(size) for _ in range(2000)]  # 200 MB, below the size that is mapped by itself
    for block in blocks:
        ctypes.memset(block, 1, size)
    full = process.memory_info().rss
    for block in blocks[:-1]:  # the last one keeps the heap's end
        libc.free(block)
    heap.give_back()
    gc.collect()
    assert process.memory_info().rss < full - 150e6
    libc.free(blocks[-1])


def test_another_c_library_is_left_alone(monkeypatch):
    heap._trim.cache_clear()  # noqa: SLF001
    monkeypatch.setattr(heap.ctypes, "CDLL", lambda name: object())
    heap.give_back()
    heap._trim.cache_clear()  # noqa: SLF001
