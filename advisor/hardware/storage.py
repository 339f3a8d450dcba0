"""Writing and reading a file on the disk that models are saved to."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from advisor.hardware.figures import Figure, Work

STORAGE_BYTES, LARGE_STORAGE_BYTES = 16 * 2**20, 128 * 2**20
"""Of one file: about a MiniLM in half precision, and what a disk no longer takes in one burst. Two repeats of writing
340 MiB to one disk differed by a factor of 2.5, and both were slower than 16 MiB."""


def storage_figures(folder: Path) -> Iterator[Figure]:
    """Both directions.

    Args:
        folder: On the disk in question.
    """
    small, large = (f"{size // 2**20} MiB" for size in (STORAGE_BYTES, LARGE_STORAGE_BYTES))
    yield Figure("bytes_per_s", "storage", f"writing {small}", lambda _: _writing(folder, STORAGE_BYTES), quick=True)
    yield Figure("bytes_per_s", "storage_read", f"reading {small}", lambda _: _reading(folder, small))
    yield Figure("bytes_per_s", "storage_large", f"writing {large}", lambda _: _writing(folder, LARGE_STORAGE_BYTES))


def _writing(folder: Path, size: int) -> Work:
    data = os.urandom(size)  # zeros may be compressed or left out by the file system

    def write() -> None:
        with tempfile.TemporaryFile(dir=folder) as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())

    return Work(float(size), f"write and flush {size // 2**20} MiB", "", write)


def _reading(folder: Path, size: str) -> Work:
    # Deleted when the closure goes: the stream is its only owner.
    stream = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115
    stream.write(os.urandom(STORAGE_BYTES))
    stream.flush()
    os.fsync(stream.fileno())
    forget = getattr(os, "posix_fadvise", None)

    def read() -> None:
        if forget is not None:
            forget(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        stream.seek(0)
        while stream.read(2**20):
            pass

    cached = "" if forget is not None else " (from the page cache)"
    return Work(float(STORAGE_BYTES), f"read {size}{cached}", "", read)
