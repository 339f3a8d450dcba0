"""A model of the C library's heap on a CPU: how far it grows over a sequence of allocations.

Source: malloc/malloc.c of glibc 2.36, as a training process sets it up (``hardware.host_process``): nothing is mapped
on its own or handed back, and freed blocks always merge.

* A block carries a header of 8 bytes and is a multiple of 16 bytes long. torch asks for an alignment of 64 bytes
  (``gAlignment``, c10/core/alignment.h), for which ``_int_memalign`` takes a free block that is larger by the alignment
  and the least block size, and frees what it cuts off at both ends. So a gap that one block left is too small for
  another of the same size.
* The smallest free block that is large enough is taken, of equal ones that with the lowest address; what is left of it
  stays free. What is free at the end of the heap is taken last; only when that is too small does the heap grow.
* The heap never shrinks, and what it has grown to has been written: it is resident.

Blocks of Python, and buffers that libraries keep for themselves, are not in a trace; calibration finds them as what is
resident beyond.
"""

from __future__ import annotations

import bisect
from dataclasses import dataclass, field

from advisor.costmodel.memory.event_replay import EventReplay

HEADER_BYTES, ROUND_BYTES = 8, 16
"""``SIZE_SZ`` and ``MALLOC_ALIGNMENT`` on 64-bit systems."""
SLACK_BYTES = 64 + 32
"""Alignment and ``MINSIZE``: what a free block must have beyond the one that is cut from it."""


@dataclass
class Heap(EventReplay):
    """Replays allocations; ``extent_bytes`` is how far it has grown."""

    extent_bytes: int = 0
    out_of_memory: bool = False
    _end: int = 0
    """Everything from here on is free."""
    _blocks: dict[int, tuple[int, int]] = field(default_factory=dict)
    """Address and size by the caller's number."""
    _free: list[tuple[int, int]] = field(default_factory=list)
    """Size and address of the free blocks below the end, in order."""
    _size_at: dict[int, int] = field(default_factory=dict)
    """Of such a block, by its address."""
    _start_of: dict[int, int] = field(default_factory=dict)
    """Of such a block, by its own end."""

    def allocate(self, number: int, size_bytes: int) -> bool:
        """Allocate ``size_bytes`` under the caller's ``number``; a heap has always room."""
        size = -(-(size_bytes + HEADER_BYTES) // ROUND_BYTES) * ROUND_BYTES
        index = bisect.bisect_left(self._free, (size + SLACK_BYTES,))
        if index < len(self._free):
            gap, address = self._free[index]
            self._unlist(address)
            self._enlist(address + size, gap - size)
        else:
            address = self._end
            self._end += size
            self.extent_bytes = max(self.extent_bytes, self._end)
        self._blocks[number] = address, size
        return True

    def release(self, number: int) -> None:
        """Free what ``allocate`` stored under ``number``; neighbours merge."""
        address, size = self._blocks.pop(number)
        before = self._start_of.get(address)
        if before is not None:
            size += self._unlist(before)
            address = before
        if address + size == self._end:
            self._end = address
            return
        if address + size in self._size_at:
            size += self._unlist(address + size)
        self._enlist(address, size)

    def _enlist(self, address: int, size: int) -> None:
        self._size_at[address] = size
        self._start_of[address + size] = address
        bisect.insort(self._free, (size, address))

    def _unlist(self, address: int) -> int:
        """Take a free block out; returns its size."""
        size = self._size_at.pop(address)
        del self._start_of[address + size]
        self._free.pop(bisect.bisect_left(self._free, (size, address)))
        return size
