"""A file that one process at a time adds lines to: each line is there whole or not at all."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path

from advisor.core.errors import OutputError
from advisor.core.store import file_lock, output_errors


def whole_lines(raw: bytes) -> bytes:
    """A file's content without a last line that has no line break: a kill tore it."""
    return raw[: raw.rfind(b"\n") + 1]


def read_lines(path: Path) -> str:
    """The whole lines of a file, which is left as it is."""
    return whole_lines(path.read_bytes()).decode(errors="replace")


class AppendLog:
    """Lines that survive a kill, a full disk and a second writer.

    A line that a kill tore is not part of what ``open`` returns, and is cut off before the next one is written; until
    then the file is left as it was found. A line that the disk had no room for is undone.

    Args:
        path: The file; its folder exists. The lock is a file beside it, ``<name>.lock``.
        busy: What to raise when another process has it open.
        write: Writes bytes to a descriptor and returns how many.
    """

    def __init__(self, path: Path, *, busy: OutputError, write: Callable[[int, bytes], int] = os.write) -> None:
        self.path, self._busy, self._write = path, busy, write
        self._descriptor = -1
        self._resources = contextlib.ExitStack()
        self._torn_at_bytes: int | None = None

    @property
    def is_open(self) -> bool:
        """Whether lines can be added."""
        return self._descriptor >= 0

    def open(self) -> str:
        """Make the file if it is missing, lock it, and return its whole lines.

        Raises:
            OutputError: another process has it open, or it cannot be made or read.
        """
        with contextlib.ExitStack() as stack, output_errors(self.path):
            stack.enter_context(file_lock(self.path.with_name(f"{self.path.name}.lock"), busy=self._busy))
            self._descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
            stack.callback(self._close_file)
            raw = self.path.read_bytes()
            self._resources = stack.pop_all()
        whole = whole_lines(raw)
        self._torn_at_bytes = len(whole) if len(whole) < len(raw) else None
        return whole.decode(errors="replace")

    def append(self, line: str, *, durable: bool = True) -> None:
        """Add one line.

        Args:
            line: With the line break that ends it.
            durable: Wait until it is on disk. Without, it survives the death of this process but not a power cut, and
                costs no disk access.

        Raises:
            OSError: the disk is full or gone; the lines before are as they were.
            ValueError: it is not one line.
        """
        if line.count("\n") != 1 or not line.endswith("\n"):
            raise ValueError(f"a line must end with its only line break, but got {line!r}")
        self._cut_off_what_is_torn()
        before_bytes = os.fstat(self._descriptor).st_size
        remaining = line.encode()
        try:
            while remaining:
                remaining = remaining[self._write(self._descriptor, remaining) :]
            if durable:
                os.fsync(self._descriptor)
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(self._descriptor, before_bytes)
            raise

    def clear(self) -> None:
        """Remove all lines.

        Raises:
            OSError: the disk is gone.
        """
        os.ftruncate(self._descriptor, 0)
        self._torn_at_bytes = None

    def close(self) -> None:
        """Let go of the file; another process may open it from here on."""
        self._resources.close()

    def _close_file(self) -> None:
        os.close(self._descriptor)
        self._descriptor = -1

    def _cut_off_what_is_torn(self) -> None:
        if self._torn_at_bytes is not None:
            os.ftruncate(self._descriptor, self._torn_at_bytes)
            self._torn_at_bytes = None
