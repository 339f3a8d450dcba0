"""A model of torch's CUDA caching allocator: what ``max_memory_reserved`` will say for a sequence of allocations.

Source: c10/cuda/CUDACachingAllocator.cpp, native back end with default settings, one stream: 512-byte rounding, a pool
of 2 MiB segments for requests up to 1 MiB, 20 MiB segments up to 10 MiB and multiples of 2 MiB above, best fit,
splitting when the rest is at least 512 bytes (small pool) or more than 1 MiB (large pool), coalescing of free
neighbours.
"""

from __future__ import annotations

import bisect
from dataclasses import dataclass, field

ROUND_BYTES = 512
SMALL_BYTES = 1 << 20
SMALL_SEGMENT_BYTES = 2 << 20
LARGE_SEGMENT_BYTES = 20 << 20
MIN_LARGE_BYTES = 10 << 20
ROUND_LARGE_BYTES = 2 << 20


def round_size(size_bytes: int) -> int:
    """What an allocation really takes."""
    return max(ROUND_BYTES, -(-size_bytes // ROUND_BYTES) * ROUND_BYTES)


@dataclass(eq=False)
class _Block:
    size_bytes: int
    address: int
    small: bool
    free: bool = False
    previous: _Block | None = None
    next: _Block | None = None

    def key(self) -> tuple[int, int]:
        return self.size_bytes, self.address


@dataclass
class CachingAllocator:
    """Replays allocations; ``peak_reserved_bytes`` and ``peak_allocated_bytes`` accumulate.

    Attributes:
        capacity_bytes: When segments would exceed it, cached whole segments are returned first, as torch does before it
            reports out of memory; ``None`` is unbounded.
    """

    capacity_bytes: int | None = None
    allocated_bytes: int = 0
    reserved_bytes: int = 0
    peak_allocated_bytes: int = 0
    peak_reserved_bytes: int = 0
    out_of_memory: bool = False
    _pools: dict[bool, list[tuple[tuple[int, int], _Block]]] = field(default_factory=lambda: {True: [], False: []})
    _blocks: dict[int, _Block] = field(default_factory=dict)
    _next_address: int = 0

    def allocate(self, number: int, size_bytes: int) -> None:
        """Allocate ``size_bytes`` under the caller's ``number``."""
        size = round_size(size_bytes)
        small = size <= SMALL_BYTES
        block = self._best_fit(size, small) or self._new_segment(size, small)
        self._split(block, size)
        block.free = False
        self._blocks[number] = block
        self.allocated_bytes += block.size_bytes
        self.peak_allocated_bytes = max(self.peak_allocated_bytes, self.allocated_bytes)

    def release(self, number: int) -> None:
        """Free what ``allocate`` stored under ``number``; neighbours coalesce."""
        block = self._blocks.pop(number)
        self.allocated_bytes -= block.size_bytes
        if block.previous is not None and block.previous.free:
            before = block.previous
            self._unlist(before)
            before.size_bytes += block.size_bytes
            before.next = block.next
            if block.next is not None:
                block.next.previous = before
            block = before
        if block.next is not None and block.next.free:
            after = block.next
            self._unlist(after)
            block.size_bytes += after.size_bytes
            block.next = after.next
            if after.next is not None:
                after.next.previous = block
        block.free = True
        self._enlist(block)

    def _best_fit(self, size: int, small: bool) -> _Block | None:
        pool = self._pools[small]
        index = bisect.bisect_left(pool, (size, -1), key=lambda entry: entry[0])
        return pool.pop(index)[1] if index < len(pool) else None

    def _new_segment(self, size: int, small: bool) -> _Block:
        if small:
            segment = SMALL_SEGMENT_BYTES
        elif size < MIN_LARGE_BYTES:
            segment = LARGE_SEGMENT_BYTES
        else:
            segment = -(-size // ROUND_LARGE_BYTES) * ROUND_LARGE_BYTES
        if self.capacity_bytes is not None and self.reserved_bytes + segment > self.capacity_bytes:
            self._return_cached_segments()
            self.out_of_memory |= self.reserved_bytes + segment > self.capacity_bytes
        self.reserved_bytes += segment
        self.peak_reserved_bytes = max(self.peak_reserved_bytes, self.reserved_bytes)
        self._next_address += 1 << 42
        return _Block(segment, self._next_address, small)

    def _split(self, block: _Block, size: int) -> None:
        rest = block.size_bytes - size
        if not (rest >= ROUND_BYTES if block.small else rest > SMALL_BYTES):
            return
        remainder = _Block(rest, block.address + size, block.small, True, block, block.next)
        if block.next is not None:
            block.next.previous = remainder
        block.next = remainder
        block.size_bytes = size
        self._enlist(remainder)

    def _return_cached_segments(self) -> None:
        for small, pool in self._pools.items():
            whole = [entry for entry in pool if entry[1].previous is None and entry[1].next is None]
            self.reserved_bytes -= sum(block.size_bytes for _, block in whole)
            self._pools[small] = [entry for entry in pool if entry not in whole]

    def _enlist(self, block: _Block) -> None:
        bisect.insort(self._pools[block.small], (block.key(), block), key=lambda entry: entry[0])

    def _unlist(self, block: _Block) -> None:
        pool = self._pools[block.small]
        pool.pop(bisect.bisect_left(pool, block.key(), key=lambda entry: entry[0]))
