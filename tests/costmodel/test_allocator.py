"""The model of the caching allocator, against rules that can be computed by hand and against invariants."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from advisor.costmodel.allocator import LARGE_SEGMENT_BYTES, SMALL_SEGMENT_BYTES, CachingAllocator, round_size

MIB = 1 << 20


def test_small_requests_share_one_segment() -> None:
    allocator = CachingAllocator()
    for number in range(4):
        allocator.allocate(number, 1000)
    assert allocator.allocated_bytes == 4 * 1024
    assert allocator.reserved_bytes == SMALL_SEGMENT_BYTES


def test_large_requests_take_their_own_segments() -> None:
    allocator = CachingAllocator()
    allocator.allocate(0, 3 * MIB)
    assert allocator.reserved_bytes == LARGE_SEGMENT_BYTES
    allocator.allocate(1, 11 * MIB)
    assert allocator.reserved_bytes == LARGE_SEGMENT_BYTES
    allocator.allocate(2, 101 * MIB + 1)
    assert allocator.reserved_bytes == LARGE_SEGMENT_BYTES + 102 * MIB


def test_freed_neighbours_coalesce_and_are_used_again() -> None:
    allocator = CachingAllocator()
    allocator.allocate(0, 8 * MIB)
    allocator.allocate(1, 8 * MIB)
    allocator.release(0)
    allocator.release(1)
    allocator.allocate(2, 18 * MIB)
    assert allocator.reserved_bytes == LARGE_SEGMENT_BYTES


def test_best_fit_takes_the_smallest_block() -> None:
    allocator = CachingAllocator()
    allocator.allocate(0, 64 * MIB)
    allocator.allocate(1, 32 * MIB)
    allocator.release(0)
    allocator.release(1)
    allocator.allocate(2, 30 * MIB)
    allocator.allocate(3, 64 * MIB)
    assert allocator.reserved_bytes == 96 * MIB


def test_cached_segments_are_returned_before_the_card_is_full() -> None:
    allocator = CachingAllocator(capacity_bytes=100 * MIB)
    allocator.allocate(0, 60 * MIB)
    allocator.release(0)
    allocator.allocate(1, 80 * MIB)
    assert not allocator.out_of_memory
    assert allocator.reserved_bytes == 80 * MIB
    allocator.allocate(2, 40 * MIB)
    assert allocator.out_of_memory


@given(st.lists(st.integers(1, 40 * MIB), min_size=1, max_size=60), st.integers(0, 2**32))
def test_invariants(sizes: list[int], seed: int) -> None:
    allocator, live, order = CachingAllocator(), {}, random.Random(seed)
    for number, size in enumerate(sizes):
        allocator.allocate(number, size)
        live[number] = size
        if order.random() < 0.5:
            victim = order.choice(sorted(live))
            allocator.release(victim)
            del live[victim]
        assert allocator.allocated_bytes >= sum(round_size(size) for size in live.values())
        assert allocator.reserved_bytes >= allocator.allocated_bytes
    for number in list(live):
        allocator.release(number)
    assert allocator.allocated_bytes == 0
