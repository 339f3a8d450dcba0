"""The model of the C library's heap, alone and against the real one."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from advisor.costmodel.memory.glibc_heap import HEADER_BYTES, ROUND_BYTES, SLACK_BYTES, Heap
from advisor.hardware.host_process import LARGEST_BYTES, M_MMAP_THRESHOLD, M_TRIM_THRESHOLD, NEVER, TUNABLES
from tests.hardware.test_host_process import glibc_only

MIB = 1 << 20
Events = list[tuple[int, int]]
"""``(number, bytes)`` allocates, ``(number, 0)`` frees."""


def extent(events: Events) -> int:
    heap = Heap()
    for number, size in events:
        if size:
            heap.allocate(number, size)
        else:
            heap.release(number)
    return heap.extent_bytes


def test_a_gap_is_too_small_for_another_block_of_its_size() -> None:
    taken = [(0, 10 * MIB), (1, MIB), (0, 0)]
    assert extent([*taken, (2, 10 * MIB)]) > 20 * MIB
    assert extent([*taken, (2, 10 * MIB - SLACK_BYTES - ROUND_BYTES)]) < 12 * MIB


def test_neighbours_merge_and_the_end_grows() -> None:
    three = [(0, 4 * MIB), (1, 4 * MIB), (2, 4 * MIB)]
    assert extent([*three, (0, 0), (1, 0), (3, 7 * MIB)]) < 13 * MIB
    assert extent([*three, (0, 0), (2, 0), (3, 7 * MIB)]) == pytest.approx(15 * MIB, abs=100)


def test_the_end_is_taken_last_and_used_again() -> None:
    assert extent([(0, 8 * MIB), (1, MIB), (2, 4 * MIB), (2, 0), (0, 0), (3, 4 * MIB)]) < 14 * MIB
    gap_and_end = [(0, 8 * MIB), (1, MIB), (2, 4 * MIB), (0, 0), (2, 0), (3, 3 * MIB), (4, 4 * MIB)]
    assert extent([*gap_and_end, (5, 4 * MIB)]) < 14 * MIB, "3 and 4 lie in the gap, 5 at the end"
    assert extent([(0, 4 * MIB), (0, 0), (1, 3 * MIB)]) == extent([(0, 4 * MIB)]), "it never shrinks"


def test_the_smallest_gap_is_taken() -> None:
    blocks = [(0, 8 * MIB), (1, 100), (2, 4 * MIB), (3, 100), (0, 0), (2, 0)]
    assert extent([*blocks, (4, 3 * MIB), (5, 7 * MIB)]) < 13 * MIB


@st.composite
def histories(draw: st.DrawFn) -> Events:
    """Allocations and frees in any order, larger than what Python and its libraries leave behind as gaps."""
    events: Events = []
    live: list[int] = []
    for number in range(draw(st.integers(1, 40))):
        while live and draw(st.booleans()):
            events.append((live.pop(draw(st.integers(0, len(live) - 1))), 0))
        events.append((number, draw(st.integers(64, 256)) * 64 * 1024 + draw(st.integers(0, 5000))))
        live.append(number)
    return events


@given(histories())
def test_blocks_never_overlap_and_live_bytes_fit(events: Events) -> None:
    heap, sizes, peak = Heap(), {}, 0
    for number, size in events:
        if size:
            heap.allocate(number, size)
            sizes[number] = size
        else:
            heap.release(number)
            del sizes[number]
        peak = max(peak, sum(sizes.values()))
        spans = sorted(heap._blocks[number] for number in sizes)
        ends = [start + length for start, length in spans]
        assert all(end <= start for end, (start, _) in zip(ends, spans[1:], strict=False))
        assert not ends or ends[-1] <= heap.extent_bytes
    assert heap.extent_bytes >= peak
    for number in sizes:
        heap.release(number)
    assert (heap._end, heap._free) == (0, [])


REAL = f"""
import ctypes, json, sys

libc = ctypes.CDLL(None)
assert libc.mallopt({M_MMAP_THRESHOLD}, {LARGEST_BYTES}) and libc.mallopt({M_TRIM_THRESHOLD}, {NEVER})
libc.sbrk.restype = ctypes.c_void_p
libc.posix_memalign.argtypes = [ctypes.POINTER(ctypes.c_void_p), ctypes.c_size_t, ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]
libc.malloc.restype = ctypes.c_void_p
everything = json.load(sys.stdin)
gaps_that_imports_left = [libc.malloc(ctypes.c_size_t(2**18)) for _ in range(200)]
libc.malloc_trim(0)
blocks = {{}}
for events in everything:
    before = libc.sbrk(0)
    for number, size in events:
        if size:
            blocks[number] = ctypes.c_void_p()
            libc.posix_memalign(ctypes.byref(blocks[number]), 64, size)
        else:
            libc.free(blocks.pop(number))
    print(libc.sbrk(0) - before)
    for block in blocks.values():
        libc.free(block)
    blocks.clear()
    libc.malloc_trim(0)
"""
"""Sets its heap up as ``keep_freed_memory`` does, without the package: its imports leave gaps that blocks fall into."""


@glibc_only
def test_the_real_heap_grows_alike() -> None:
    """One random history of steps that differ in length; what is free at the end of the heap is given back between."""
    import json
    import random

    draw = random.Random(7)
    histories: list[Events] = []
    for _ in range(12):
        events: Events = []
        number = 0
        for _step in range(4):
            length, kept = draw.randint(8, 32), []
            for width in (3, 1, 4, 1, 12, 12, 3):
                events.append((number, length * width * 65536))
                kept.append(number)
                if len(kept) > 2 and draw.random() < 0.4:
                    events.append((kept.pop(-2), 0))
                number += 1
            events += [(one, 0) for one in reversed(kept)]
        histories.append(events)
    environment = {"GLIBC_TUNABLES": TUNABLES, "PATH": ""}
    process = subprocess.run(
        [sys.executable, "-c", REAL], input=json.dumps(histories), capture_output=True, text=True, env=environment
    )
    assert process.returncode == 0, process.stderr
    real = [int(line) for line in process.stdout.split()]
    for events, grown_bytes in zip(histories, real, strict=True):
        assert grown_bytes == pytest.approx(extent(events), rel=0.02, abs=MIB)


def test_headers_are_counted() -> None:
    assert extent([(0, 1)]) == ROUND_BYTES
    assert extent([(0, ROUND_BYTES)]) == 2 * ROUND_BYTES
    assert HEADER_BYTES < ROUND_BYTES
