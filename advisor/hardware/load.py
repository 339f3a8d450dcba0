"""What other programs leave of the processor while something is measured.

Step times, rates and the choice of a thread count mean little where others take the cores. The whole machine's idle
time (``/proc/stat``) and this process's own processor time together are what it could have had.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from advisor.core.units import counted
from advisor.hardware.host import LEAST_FREE_SHARE, ROOT, idle_ticks, inspect_host

LEAST_WATCHED_S = 0.05
"""The system counts in hundredths of a second: shorter spans say nothing."""


class LoadMeter:
    """Watches a block: ``load(threads)`` says afterwards whether other programs took cores that it wanted.

    Args:
        root: Where ``/proc`` is looked for.
        own: Processor seconds of this process so far.
        clock: Monotonic seconds.
        cores: That this process may use; asked of the system when ``None``.
    """

    def __init__(
        self,
        root: Path = ROOT,
        *,
        own: Callable[[], float] = time.process_time,
        clock: Callable[[], float] = time.perf_counter,
        cores: int | None = None,
    ) -> None:
        self._root, self._own, self._clock = root, own, clock
        self._cores = cores
        self._free: float | None = None

    def __enter__(self) -> LoadMeter:
        self._before = (self._clock(), self._own(), idle_ticks(self._root))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, where: TracebackType | None
    ) -> None:
        began_s, own_s, idle = self._before
        elapsed_s, idle_now = self._clock() - began_s, idle_ticks(self._root)
        if idle is not None and idle_now is not None and elapsed_s >= LEAST_WATCHED_S:
            idle_s = (idle_now - idle) / os.sysconf("SC_CLK_TCK")
            self._free = (idle_s + self._own() - own_s) / elapsed_s

    def load(self, threads: int | None = None) -> str:
        """What the others did, in words; empty when there was room for all threads, or nothing is known.

        Args:
            threads: That wanted to work; all usable cores when ``None``.
        """
        if self._free is None:
            return ""
        cores = self._cores or inspect_host(self._root).cores
        if self._free > min(threads or cores, cores) - LEAST_FREE_SHARE:
            return ""
        return f"other programs left {max(0.0, self._free):.1f} of {counted(cores, 'core')}"
