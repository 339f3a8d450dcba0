"""A training process sets its threads and keeps freed memory."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from advisor.hardware.host_process import TUNABLES, USERS_OWN, process_environment

PAGE_FAULTS = """
import ctypes, resource, sys
from advisor.hardware.host_process import keep_freed_memory

print(keep_freed_memory() if sys.argv[1] == "kept" else None)
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
libc.free.argtypes = [ctypes.c_void_p]
for _ in range(4):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    block = libc.malloc(ctypes.c_size_t(64 * 2**20))
    ctypes.memset(block, 1, 64 * 2**20)
    libc.free(block)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""

glibc_only = pytest.mark.skipif(
    sys.platform != "linux" or "glibc" not in os.confstr("CS_GNU_LIBC_VERSION").lower(), reason="mallopt is glibc's"
)


def outcome(script: str, *arguments: str, **variables: str) -> list[str]:
    """Lines that a fresh process prints, its environment free of settings of malloc but for ``variables``."""
    plain = {key: value for key, value in os.environ.items() if key not in (*USERS_OWN, "GLIBC_TUNABLES")}
    command = [sys.executable, "-c", script, *arguments]
    return subprocess.run(command, env=plain | variables, capture_output=True, text=True, check=True).stdout.split()


@glibc_only
def test_a_large_block_is_used_again_without_page_faults() -> None:
    kept, faults = outcome(PAGE_FAULTS, "kept")
    assert kept == "True"
    assert int(faults) < 100
    _, faults = outcome(PAGE_FAULTS, "as it comes")
    # One every 4 KiB, or every 2 MiB where the system has huge pages for all.
    assert int(faults) >= 32


@glibc_only
@pytest.mark.parametrize(
    ("name", "value"),
    [("MALLOC_TRIM_THRESHOLD_", "100000"), ("GLIBC_TUNABLES", "glibc.malloc.arena_max=1")],
)
def test_what_the_user_chose_is_left_alone(name: str, value: str) -> None:
    assert outcome(PAGE_FAULTS, "kept", **{name: value})[0] == "False"


RESIDENT = """
import ctypes
from advisor.hardware.host_process import hand_back_freed_memory, keep_freed_memory, resident_bytes

keep_freed_memory()
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
libc.free.argtypes = [ctypes.c_void_p]
blocks = [libc.malloc(ctypes.c_size_t(2**20)) for _ in range(200)]
for block in blocks:
    ctypes.memset(block, 1, 2**20)
for block in blocks[:-1]:
    libc.free(block)
before = resident_bytes()
hand_back_freed_memory()
print(before - resident_bytes())
"""


@glibc_only
def test_what_loading_left_is_handed_back() -> None:
    assert int(outcome(RESIDENT)[0]) > 150 * 2**20


def test_threads_sleep_where_other_work_needs_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    monkeypatch.setenv("GLIBC_TUNABLES", "")
    assert process_environment(lambda: "0.9 of 2 cores idle over 0.25 s") == {"OMP_WAIT_POLICY": "PASSIVE"}
    assert process_environment(lambda: "") == {}
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    assert process_environment(lambda: pytest.fail("the user's choice needs no look")) == {}


SCATTERED = """
import ctypes
from advisor.hardware.host_process import keep_freed_memory

print(keep_freed_memory())
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
libc.free.argtypes = [ctypes.c_void_p]
libc.sbrk.restype = ctypes.c_void_p
small = [libc.malloc(ctypes.c_size_t(1000)) for _ in range(50000)]  # holes of old blocks are filled up first
blocks = []
for _ in range(6):
    blocks += [libc.malloc(ctypes.c_size_t(40 * 2**20)), libc.malloc(ctypes.c_size_t(1000))]
end = libc.sbrk(0)
for block in blocks:
    libc.free(block)
libc.malloc(ctypes.c_size_t(200 * 2**20))
print(libc.sbrk(0) - end)
"""


@glibc_only
def test_small_blocks_do_not_keep_large_gaps_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    chosen = process_environment()["GLIBC_TUNABLES"]
    kept, grown_bytes = outcome(SCATTERED, GLIBC_TUNABLES=chosen)
    assert kept == "True", "they are not the user's"
    assert int(grown_bytes) == 0
    _, grown_bytes = outcome(SCATTERED)
    assert int(grown_bytes) > 100 * 2**20
    monkeypatch.setenv("GLIBC_TUNABLES", TUNABLES)
    assert "GLIBC_TUNABLES" not in process_environment()


PREPARED = """
import sys, torch
from advisor.hardware.backends import cpu, get_backend

kept = []
cpu.keep_freed_memory = lambda: kept.append(True)
get_backend(sys.argv[1]).runtime.prepare_process(1)
print(torch.get_num_threads(), len(kept))
"""


def test_threads_are_set_everywhere_and_memory_is_kept_on_a_cpu() -> None:
    assert outcome(PREPARED, "cpu", OMP_NUM_THREADS="2") == ["1", "1"]
    assert outcome(PREPARED, "cuda", OMP_NUM_THREADS="2") == ["1", "0"]
