"""A model of torch's CUDA caching allocator: what ``max_memory_reserved`` will say for a sequence of allocations.

Source: c10/cuda/CUDACachingAllocator.cpp and c10/core/AllocatorConfig.h (torch 2.13), native back end, one stream, no
settings in the environment:

* Sizes are rounded up to 512 bytes (``round_size``). Requests up to 1 MiB share segments of 2 MiB, requests below
  10 MiB segments of 20 MiB, larger ones get a segment of their own size rounded up to 2 MiB
  (``get_allocation_size``). Small and large requests have pools of their own.
* ``get_free_block`` takes the smallest free block that is large enough, of equal ones that with the lowest address.
  The limits on oversized blocks apply only below ``max_split_size``, which is unlimited by default.
* ``should_split``: what is left of a block becomes a block if it is at least 512 bytes (small pool), or more than 1 MiB
  (large pool); otherwise it stays part of the allocation and counts as allocated.
* Freed blocks merge with free neighbours of their segment. A segment goes back to the device only when the device is
  full and only when it is wholly free: ``release_cached_blocks`` then returns all such segments, of both pools, and the
  allocation is tried once more. ``garbage_collection_threshold`` is 0 and ``release_available_cached_blocks`` does
  nothing without ``max_split_size``.
"""

from __future__ import annotations

import bisect
from dataclasses import dataclass, field

from advisor.costmodel.memory.event_replay import EventReplay

ROUND_BYTES = 512
"""``kMinBlockSize``."""
SMALL_BYTES = 1 << 20
"""``kSmallSize``: the largest request of the small pool."""
SMALL_SEGMENT_BYTES = 2 << 20
"""``kSmallBuffer``."""
LARGE_SEGMENT_BYTES = 20 << 20
"""``large_segment_size``."""
MIN_LARGE_BYTES = 10 << 20
"""``kMinLargeAlloc``: from here on a request gets a segment of its own."""
ROUND_LARGE_BYTES = 2 << 20
"""``kRoundLarge``."""


def round_size(size_bytes: int) -> int:
    """What an allocation really takes."""
    return max(ROUND_BYTES, -(-size_bytes // ROUND_BYTES) * ROUND_BYTES)


def segment_size(size_bytes: int) -> int:
    """The segment that is asked of the device for a rounded request that no free block can hold."""
    if size_bytes <= SMALL_BYTES:
        return SMALL_SEGMENT_BYTES
    if size_bytes < MIN_LARGE_BYTES:
        return LARGE_SEGMENT_BYTES
    return -(-size_bytes // ROUND_LARGE_BYTES) * ROUND_LARGE_BYTES


class _Segment:
    """Memory asked of the device at once."""

    __slots__ = ("live_blocks", "size_bytes")

    def __init__(self, size_bytes: int) -> None:
        self.size_bytes = size_bytes
        self.live_blocks = 0


class _Block:
    """A part of a segment, free or in use, with its neighbours in address order."""

    __slots__ = ("address", "following", "free", "pool", "preceding", "segment", "size_bytes")

    def __init__(self, size_bytes: int, address: int, pool: _Pool, segment: _Segment) -> None:
        self.size_bytes = size_bytes
        self.address = address
        self.pool = pool
        self.segment = segment
        self.free = False
        self.preceding: _Block | None = None
        self.following: _Block | None = None


_Pool = list[tuple[int, int, _Block]]
"""Free blocks in order of size, then address."""


@dataclass
class CachingAllocator(EventReplay):
    """Replays allocations; peaks accumulate.

    Attributes:
        capacity_bytes: What the device gives to segments at most; ``None`` is unbounded.
        allocated_bytes, reserved_bytes: As ``torch.cuda.memory_allocated`` and ``memory_reserved``.
        pinned_bytes: Reserved bytes in segments with a live block: what can not be returned to the device.
        peak_allocated_bytes, peak_reserved_bytes, peak_pinned_bytes: Largest so far.
        out_of_memory: Whether a request failed even after all free segments had been returned.
    """

    capacity_bytes: int | None = None
    allocated_bytes: int = 0
    reserved_bytes: int = 0
    pinned_bytes: int = 0
    peak_allocated_bytes: int = 0
    peak_reserved_bytes: int = 0
    peak_pinned_bytes: int = 0
    out_of_memory: bool = False
    _small: _Pool = field(default_factory=list)
    _large: _Pool = field(default_factory=list)
    _blocks: dict[int, _Block] = field(default_factory=dict)
    _next_address: int = 0

    def allocate(self, number: int, size_bytes: int) -> bool:
        """Allocate ``size_bytes`` under the caller's ``number``; says whether that was possible."""
        size = round_size(size_bytes)
        pool = self._small if size <= SMALL_BYTES else self._large
        index = bisect.bisect_left(pool, (size,))
        block = pool.pop(index)[2] if index < len(pool) else self._new_segment(size, pool)
        if block is None:
            self.out_of_memory = True
            return False
        self._split(block, size)
        block.free = False
        segment = block.segment
        if not segment.live_blocks:
            self.pinned_bytes += segment.size_bytes
            self.peak_pinned_bytes = max(self.peak_pinned_bytes, self.pinned_bytes)
        segment.live_blocks += 1
        self._blocks[number] = block
        self.allocated_bytes += block.size_bytes
        if self.allocated_bytes > self.peak_allocated_bytes:
            self.peak_allocated_bytes = self.allocated_bytes
        return True

    def release(self, number: int) -> None:
        """Free what ``allocate`` stored under ``number``; neighbours merge."""
        block = self._blocks.pop(number)
        self.allocated_bytes -= block.size_bytes
        segment = block.segment
        segment.live_blocks -= 1
        if not segment.live_blocks:
            self.pinned_bytes -= segment.size_bytes
        before = block.preceding
        if before is not None and before.free:
            _unlist(before)
            _absorb(before, block)
            block = before
        after = block.following
        if after is not None and after.free:
            _unlist(after)
            _absorb(block, after)
        block.free = True
        _enlist(block)

    def _new_segment(self, size: int, pool: _Pool) -> _Block | None:
        wanted = segment_size(size)
        if self.capacity_bytes is not None and self.reserved_bytes + wanted > self.capacity_bytes:
            self.return_free_segments()
            if self.reserved_bytes + wanted > self.capacity_bytes:
                return None
        self.reserved_bytes += wanted
        self.peak_reserved_bytes = max(self.peak_reserved_bytes, self.reserved_bytes)
        # Segments lie apart: their blocks never touch.
        self._next_address += 1 << 44
        return _Block(wanted, self._next_address, pool, _Segment(wanted))

    def _split(self, block: _Block, size: int) -> None:
        rest = block.size_bytes - size
        if not (rest >= ROUND_BYTES if block.pool is self._small else rest > SMALL_BYTES):
            return
        remainder = _Block(rest, block.address + size, block.pool, block.segment)
        remainder.preceding, remainder.following = block, block.following
        if block.following is not None:
            block.following.preceding = remainder
        block.following = remainder
        block.size_bytes = size
        remainder.free = True
        _enlist(remainder)

    def return_free_segments(self) -> None:
        """Give wholly free segments back to the device, as ``empty_cache`` does (``release_cached_blocks``)."""
        for pool in (self._small, self._large):
            self.reserved_bytes -= sum(size for size, _, block in pool if _is_whole(block))
            pool[:] = [entry for entry in pool if not _is_whole(entry[2])]


def _is_whole(block: _Block) -> bool:
    return block.preceding is None and block.following is None


def _absorb(block: _Block, after: _Block) -> None:
    """Make ``after`` part of ``block``, its lower neighbour."""
    block.size_bytes += after.size_bytes
    block.following = after.following
    if after.following is not None:
        after.following.preceding = block


def _enlist(block: _Block) -> None:
    bisect.insort(block.pool, (block.size_bytes, block.address, block))


def _unlist(block: _Block) -> None:
    block.pool.pop(bisect.bisect_left(block.pool, (block.size_bytes, block.address)))
