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

    __slots__ = ("address", "following", "free", "mapped", "pool", "preceding", "segment", "size_bytes")

    def __init__(self, size_bytes: int, address: int, pool: _Pool, segment: _Segment) -> None:
        self.size_bytes = size_bytes
        self.address = address
        self.pool = pool
        self.segment = segment
        self.free = False
        self.mapped = True
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
        block = pool.pop(self._best(pool, index))[2] if index < len(pool) else self._new_segment(size, pool)
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
        _enlist(block)

    def _best(self, pool: _Pool, index: int) -> int:
        """Which free block serves a request, of those from ``index`` on, which are large enough."""
        return index

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
        if self._is_worth_splitting(block, rest):
            _enlist(_cut(block, size))

    def _is_worth_splitting(self, block: _Block, rest: int) -> bool:
        return rest >= ROUND_BYTES if block.pool is self._small else rest > SMALL_BYTES

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


def _cut(block: _Block, size: int) -> _Block:
    """Shorten a block to ``size``; returns the rest as its upper neighbour."""
    rest = _Block(block.size_bytes - size, block.address + size, block.pool, block.segment)
    rest.preceding, rest.following = block, block.following
    if block.following is not None:
        block.following.preceding = rest
    block.following = rest
    block.size_bytes = size
    return rest


def _enlist(block: _Block) -> None:
    block.free = True
    bisect.insort(block.pool, (block.size_bytes, block.address, block))


def _unlist(block: _Block) -> None:
    block.pool.pop(bisect.bisect_left(block.pool, (block.size_bytes, block.address)))


class ExpandableAllocator(CachingAllocator):
    """The same with ``expandable_segments:True``: one segment per pool, whose address space is mapped page by page.

    Source: as above (``try_allocate_expandable_block``, ``map_block``, ``unmap_block``). A request that no free block
    can hold extends the first free block that unmapped space follows; of free blocks that are large enough, one that
    can grow least is taken; what is left of a block is always split off; ``empty_cache`` returns every page that is
    wholly free. Pages are 2 MiB in the small pool and 20 MiB in the large one.
    """

    def __init__(self, capacity_bytes: int | None = None) -> None:
        super().__init__(capacity_bytes)
        self._unmapped: dict[int, list[_Block]] = {}
        self._pages: dict[int, int] = {}
        self._space(self._small, 0)
        self._space(self._large, LARGE_SEGMENT_BYTES << 36)  # aligned to pages

    def _space(self, pool: _Pool, address: int) -> None:
        block = _Block(1 << 50, address, pool, _Segment(0))
        block.mapped = False
        self._unmapped[id(pool)] = [block]

    def allocate(self, number: int, size_bytes: int) -> bool:
        if not super().allocate(number, size_bytes):
            return False
        self._count(self._blocks[number], +1)
        self.peak_pinned_bytes = max(self.peak_pinned_bytes, self.pinned_bytes)
        return True

    def release(self, number: int) -> None:
        self._count(self._blocks[number], -1)
        super().release(number)

    def _page(self, pool: _Pool) -> int:
        return SMALL_SEGMENT_BYTES if pool is self._small else LARGE_SEGMENT_BYTES

    def _count(self, block: _Block, change: int) -> None:
        """Pages with a live block are pinned."""
        size = self._page(block.pool)
        for page in range(block.address // size, (block.address + block.size_bytes - 1) // size + 1):
            count = self._pages.get(page, 0)
            self._pages[page] = count + change
            if 0 in (count, count + change):
                self.pinned_bytes += change * size

    def _best(self, pool: _Pool, index: int) -> int:
        while index + 1 < len(pool) and _growable(pool[index + 1][2]) < _growable(pool[index][2]):
            index += 1
        return index

    def _is_worth_splitting(self, block: _Block, rest: int) -> bool:
        return rest >= ROUND_BYTES

    def _new_segment(self, size: int, pool: _Pool) -> _Block | None:
        found = self._extended(size, pool)
        if found is None:
            self.return_free_segments()
            found = self._extended(size, pool)
        if found is not None:
            _unlist(found)
        return found

    def _extended(self, size: int, pool: _Pool) -> _Block | None:
        """A free block of at least ``size``, made by mapping what follows it."""
        block = next(start for start in map(_start, self._unmapped[id(pool)]) if _reaches(start, size))
        if not block.mapped and not self._map(block, min(block.size_bytes, size)):
            return None
        while block.size_bytes < size:
            further = block.following
            assert further is not None
            if not self._map(further, min(size - block.size_bytes, further.size_bytes)):
                return None
            block = further
        return block

    def _map(self, block: _Block, size: int) -> bool:
        page = self._page(block.pool)
        mapped = -(-size // page) * page
        if self.capacity_bytes is not None and self.reserved_bytes + mapped > self.capacity_bytes:
            return False
        self.reserved_bytes += mapped
        self.peak_reserved_bytes = max(self.peak_reserved_bytes, self.reserved_bytes)
        spaces = self._unmapped[id(block.pool)]
        spaces.remove(block)
        if mapped < block.size_bytes:
            rest = _cut(block, mapped)
            rest.mapped = False
            bisect.insort(spaces, rest, key=lambda space: space.address)
        block.mapped = True
        before, after = block.preceding, block.following
        if before is not None and before.free:
            _unlist(before)
            block.address, block.size_bytes = before.address, before.size_bytes + block.size_bytes
            block.preceding = before.preceding
            if block.preceding is not None:
                block.preceding.following = block
        if after is not None and after.free:
            _unlist(after)
            _absorb(block, after)
        _enlist(block)
        return True

    def return_free_segments(self) -> None:
        for pool in (self._small, self._large):
            for _, _, block in list(pool):
                self._unmap(block)

    def _unmap(self, block: _Block) -> None:
        page = self._page(block.pool)
        begin = -(-block.address // page) * page
        end = (block.address + block.size_bytes) // page * page
        if begin >= end:
            return
        _unlist(block)
        if begin > block.address:
            before, block = block, _cut(block, begin - block.address)
            _enlist(before)
        if end < block.address + block.size_bytes:
            _enlist(_cut(block, end - block.address))
        self.reserved_bytes -= block.size_bytes
        block.mapped = block.free = False
        spaces = self._unmapped[id(block.pool)]
        for neighbour in (block.preceding, block.following):
            if neighbour is not None and not neighbour.mapped:
                spaces.remove(neighbour)
                lower, upper = (neighbour, block) if neighbour.address < block.address else (block, neighbour)
                _absorb(lower, upper)
                block = lower
        bisect.insort(spaces, block, key=lambda space: space.address)


def _growable(block: _Block) -> int:
    """Its size, with the unmapped space that follows it."""
    after = block.following
    return block.size_bytes + (after.size_bytes if after is not None and not after.mapped else 0)


def _start(space: _Block) -> _Block:
    """Where a request that unmapped space serves begins: at a free block before it."""
    before = space.preceding
    return before if before is not None and before.free else space


def _reaches(block: _Block | None, size: int) -> bool:
    """Whether free and unmapped blocks from this one on are large enough together."""
    while block is not None and (block.free or not block.mapped) and size > 0:
        size -= block.size_bytes
        block = block.following
    return size <= 0
