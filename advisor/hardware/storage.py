"""Writing and reading a file on the disk that models are saved to."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from advisor.hardware.benchmarks import Figure, Workload

STORAGE_BYTES, LARGE_STORAGE_BYTES = 16 * 2**20, 128 * 2**20
"""Of one file: about a MiniLM in half precision, and what a disk no longer takes in one burst."""
KEPT_BYTES = 2**30
"""Of files that stay until a figure is timed. A file that follows a deleted one of its size is written into the same
pages of the system's cache: on one virtual machine at 1,450 MB/s, while a run's checkpoints, which are not deleted,
went at 200 to 270 MB/s, and so did the probe's files once they stayed."""


Write = Callable[[Path, bytes], IO[bytes]]


def storage_figures(folder: Path, write: Write | None = None) -> Iterator[Figure]:
    """Both directions.

    Args:
        folder: On the disk in question.
        write: Writes and flushes a file there that is deleted when it is closed.
    """
    write = write or _flushed
    yield _written("storage", folder, STORAGE_BYTES, write, quick=True)
    yield Figure("bytes_per_s", "storage_read", f"reading {_in_words(STORAGE_BYTES)}", lambda _: _reading(folder))
    yield _written("storage_large", folder, LARGE_STORAGE_BYTES, write)


def _written(key: str, folder: Path, size: int, write: Write, *, quick: bool = False) -> Figure:
    def build(divisor: int) -> Workload:
        data = os.urandom(size)  # zeros may be compressed or left out by the file system
        kept: list[IO[bytes]] = []

        def call() -> None:
            if len(kept) * size >= KEPT_BYTES:
                kept.clear()
            try:
                kept.append(write(folder, data))
            except OSError:  # the disk is full
                if not kept:
                    raise
                kept.clear()
                kept.append(write(folder, data))

        return Workload(float(size), f"write and flush {_in_words(size)}", "", call)

    return Figure("bytes_per_s", key, f"writing {_in_words(size)}", build, quick=quick)


def _flushed(folder: Path, data: bytes) -> IO[bytes]:
    """A file with this content, deleted when the last reference to it goes."""
    stream: IO[bytes] = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115
    written = 0
    while written < len(data):
        written += stream.write(memoryview(data)[written:])
    os.fsync(stream.fileno())
    return stream


def _reading(folder: Path) -> Workload:
    stream = _flushed(folder, os.urandom(STORAGE_BYTES))
    forget = getattr(os, "posix_fadvise", None)

    def read() -> None:
        if forget is not None:
            forget(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        stream.seek(0)
        while stream.read(2**20):
            pass

    cached = "" if forget is not None else " (from the page cache)"
    return Workload(float(STORAGE_BYTES), f"read {_in_words(STORAGE_BYTES)}{cached}", "", read)


def _in_words(size_bytes: int) -> str:
    return f"{size_bytes // 2**20} MiB"
