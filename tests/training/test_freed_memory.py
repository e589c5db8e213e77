"""Freed memory of a training step is there for the next one."""

import platform
import subprocess
import sys

import pytest

PAGES_OF_TEN_BLOCKS = """
import ctypes, resource
from scalablevit.training.freed_memory import keep_freed_memory
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
libc.malloc.argtypes, libc.free.argtypes = [ctypes.c_size_t], [ctypes.c_void_p]
libc.memset.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        block = libc.malloc(2**26)
        libc.memset(block, 1, 2**26)
        libc.free(block)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print(faults(), keep_freed_memory(), faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a setting of glibc")
def test_pages_of_a_freed_block_are_not_cleared_again() -> None:
    outcome = subprocess.run([sys.executable, "-c", PAGES_OF_TEN_BLOCKS], capture_output=True, text=True, timeout=60)
    default, taken, kept = outcome.stdout.split()
    assert taken == "True"
    assert int(kept) < int(default) / 5, outcome.stdout
