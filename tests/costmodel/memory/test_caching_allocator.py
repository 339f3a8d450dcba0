"""The model of the caching allocator, against rules that can be computed by hand and against invariants."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from advisor.costmodel.memory.caching_allocator import (
    LARGE_SEGMENT_BYTES,
    SMALL_SEGMENT_BYTES,
    CachingAllocator,
    round_size,
    segment_size,
)

MIB = 1 << 20


def allocator_with(*sizes: int, capacity_bytes: int | None = None) -> CachingAllocator:
    allocator = CachingAllocator(capacity_bytes)
    for number, size in enumerate(sizes):
        assert allocator.allocate(number, size)
    return allocator


def test_segments_by_size() -> None:
    assert segment_size(512) == segment_size(MIB) == SMALL_SEGMENT_BYTES
    assert segment_size(MIB + 512) == segment_size(10 * MIB - 512) == LARGE_SEGMENT_BYTES
    assert segment_size(10 * MIB) == 10 * MIB
    assert segment_size(10 * MIB + 512) == 12 * MIB


def test_small_requests_share_one_segment() -> None:
    allocator = allocator_with(1000, 1000, 1000, 1000)
    assert allocator.allocated_bytes == 4 * 1024
    assert allocator.reserved_bytes == SMALL_SEGMENT_BYTES


def test_large_requests_take_their_own_segments() -> None:
    allocator = allocator_with(3 * MIB)
    assert allocator.reserved_bytes == LARGE_SEGMENT_BYTES
    allocator.allocate(1, 11 * MIB)
    # 17 MiB are left of the first segment.
    assert allocator.reserved_bytes == LARGE_SEGMENT_BYTES
    allocator.allocate(2, 101 * MIB + 1)
    assert allocator.reserved_bytes == LARGE_SEGMENT_BYTES + 102 * MIB


def test_small_and_large_pools_do_not_share() -> None:
    allocator = allocator_with(2 * MIB, MIB)
    assert allocator.reserved_bytes == LARGE_SEGMENT_BYTES + SMALL_SEGMENT_BYTES


def test_a_small_block_is_split_down_to_512_bytes() -> None:
    allocator = allocator_with(MIB, MIB - 512, 512)
    assert allocator.reserved_bytes == SMALL_SEGMENT_BYTES
    allocator.allocate(3, 512)
    assert allocator.reserved_bytes == 2 * SMALL_SEGMENT_BYTES


def test_a_large_rest_of_one_mebibyte_stays_with_the_block() -> None:
    allocator = allocator_with(19 * MIB)
    assert allocator.allocated_bytes == allocator.reserved_bytes == 20 * MIB
    allocator.release(0)
    allocator.allocate(1, 19 * MIB - 512)
    assert allocator.allocated_bytes == 19 * MIB - 512


def test_freed_neighbours_coalesce_and_are_used_again() -> None:
    allocator = allocator_with(8 * MIB, 8 * MIB)
    allocator.release(0)
    allocator.release(1)
    allocator.allocate(2, 18 * MIB)
    assert allocator.reserved_bytes == LARGE_SEGMENT_BYTES


def test_a_block_in_use_keeps_its_neighbours_apart() -> None:
    allocator = allocator_with(6 * MIB, 6 * MIB, 6 * MIB)
    allocator.release(0)
    allocator.release(2)
    allocator.allocate(3, 9 * MIB)
    assert allocator.reserved_bytes == 2 * LARGE_SEGMENT_BYTES


def test_best_fit_takes_the_smallest_block() -> None:
    allocator = allocator_with(64 * MIB, 32 * MIB)
    allocator.release(0)
    allocator.release(1)
    allocator.allocate(2, 30 * MIB)
    allocator.allocate(3, 64 * MIB)
    assert allocator.reserved_bytes == 96 * MIB


def test_of_equal_blocks_the_lowest_address_is_taken() -> None:
    allocator = allocator_with(64 * MIB, 64 * MIB)
    allocator.release(1)
    allocator.release(0)
    allocator.allocate(2, 40 * MIB)
    allocator.release(2)
    # Had the second segment been split, a third one would be needed after the first is filled.
    allocator.allocate(3, 64 * MIB)
    allocator.allocate(4, 64 * MIB)
    assert allocator.reserved_bytes == 128 * MIB


def test_cached_segments_are_returned_before_the_card_is_full() -> None:
    allocator = allocator_with(60 * MIB, capacity_bytes=100 * MIB)
    allocator.release(0)
    assert allocator.allocate(1, 80 * MIB)
    assert allocator.reserved_bytes == 80 * MIB
    assert not allocator.allocate(2, 40 * MIB)
    assert allocator.out_of_memory


def test_only_wholly_free_segments_are_returned() -> None:
    allocator = allocator_with(30 * MIB, 30 * MIB, capacity_bytes=100 * MIB)
    allocator.release(0)
    allocator.allocate(2, 2 * MIB)  # pins the first segment: 28 MiB of it are free and of no use
    assert allocator.pinned_bytes == 60 * MIB
    assert not allocator.allocate(3, 50 * MIB)
    allocator.release(2)
    assert allocator.pinned_bytes == 30 * MIB
    assert allocator.allocate(4, 50 * MIB)


def test_lengths_that_differ_fragment() -> None:
    """A short batch splits what a long one left; the next long one needs new segments, unless memory is full."""

    def history(capacity_bytes: int | None) -> CachingAllocator:
        allocator = CachingAllocator(capacity_bytes)
        for step, size in enumerate((40 * MIB, 24 * MIB, 44 * MIB)):
            allocator.replay([2 * step, 2 * step + 1, ~(2 * step), ~(2 * step + 1)], [size] * 6)
        return allocator

    assert history(None).peak_reserved_bytes == (2 * 40 + 2 * 44) * MIB
    assert history(None).peak_pinned_bytes == 88 * MIB
    assert not history(88 * MIB).out_of_memory
    assert history(88 * MIB).peak_reserved_bytes == 88 * MIB
    assert history(86 * MIB).out_of_memory


def test_a_replay_stops_where_memory_ends() -> None:
    allocator = CachingAllocator(capacity_bytes=50 * MIB)
    assert not allocator.replay([0, 1, 2], [30 * MIB, 30 * MIB, 30 * MIB])
    assert allocator.allocated_bytes == 30 * MIB


def test_empty_storages_and_foreign_frees_are_skipped() -> None:
    allocator = CachingAllocator()
    assert allocator.replay([0, ~0, ~1], [0, 512])
    assert allocator.reserved_bytes == 0


SIZES = st.lists(st.integers(1, 40 * MIB), min_size=1, max_size=60)


@given(SIZES, st.integers(0, 2**32))
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
        assert allocator.allocated_bytes <= allocator.pinned_bytes <= allocator.reserved_bytes
    for number in list(live):
        allocator.release(number)
    assert allocator.allocated_bytes == allocator.pinned_bytes == 0
    # Everything has merged: what is free are whole segments, and they are all that was asked for.
    assert sum(size for pool in (allocator._small, allocator._large) for size, *_ in pool) == allocator.reserved_bytes
    allocator.return_free_segments()
    assert allocator.reserved_bytes == 0


@given(SIZES, st.integers(0, 2**32), st.integers(1, 600))
def test_memory_ends_only_when_nothing_can_be_returned(sizes: list[int], seed: int, capacity_mib: int) -> None:
    allocator, order, live = CachingAllocator(capacity_mib * MIB), random.Random(seed), []
    for number, size in enumerate(sizes):
        if not allocator.allocate(number, size):
            assert allocator.pinned_bytes + segment_size(round_size(size)) > capacity_mib * MIB
            assert allocator.reserved_bytes == allocator.pinned_bytes
            return
        assert allocator.reserved_bytes <= capacity_mib * MIB
        live.append(number)
        while live and order.random() < 0.5:
            allocator.release(live.pop(order.randrange(len(live))))
