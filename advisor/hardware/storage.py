"""Writing and reading a file on the disk that models are saved to."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from advisor.hardware.figures import Figure, Work

STORAGE_BYTES = 16 * 2**20
"""Of one file, about a MiniLM in half precision."""


def storage_figures(folder: Path) -> Iterator[Figure]:
    """Both directions.

    Args:
        folder: On the disk in question.
    """
    size = f"{STORAGE_BYTES // 2**20} MiB"
    yield Figure("bytes_per_s", "storage", f"writing {size}", lambda _: _writing(folder, size), quick=True)
    yield Figure("bytes_per_s", "storage_read", f"reading {size}", lambda _: _reading(folder, size))


def _writing(folder: Path, size: str) -> Work:
    data = os.urandom(STORAGE_BYTES)  # zeros may be compressed or left out by the file system

    def write() -> None:
        with tempfile.TemporaryFile(dir=folder) as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())

    return Work(float(STORAGE_BYTES), f"write and flush {size}", "", write)


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
