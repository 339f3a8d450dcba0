"""Lines of a file that survive a kill, a full disk and a second writer."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from advisor.core.append_log import AppendLog
from advisor.core.errors import OutputError

BUSY = OutputError("one process at a time may write it", fix="wait")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "lines.jsonl"


def log_of(path: Path, write: Callable[[int, bytes], int] = os.write) -> AppendLog:
    return AppendLog(path, busy=BUSY, write=write)


def test_lines_come_back_in_order(path: Path) -> None:
    log = log_of(path)
    assert log.open() == ""
    log.append("first\n")
    log.append("zweite, für später\n", durable=False)
    log.close()
    assert not log.is_open
    assert log_of(path).open() == "first\nzweite, für später\n"


def test_a_torn_line_stays_until_the_next_one_is_written(path: Path) -> None:
    path.write_text("first\nsec")
    log = log_of(path)
    assert log.open() == "first\n"
    assert path.read_text() == "first\nsec", "a file that is only read is left as it is"
    log.append("third\n")
    assert path.read_text() == "first\nthird\n"


def test_a_line_without_room_is_undone(path: Path) -> None:
    path.write_text("first\n")

    def three_bytes_then_full(descriptor: int, data: bytes) -> int:
        if os.fstat(descriptor).st_size >= len("first\n") + 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        return os.write(descriptor, data[:1])

    log = log_of(path, three_bytes_then_full)
    log.open()
    with pytest.raises(OSError, match="No space left"):
        log.append("second\n")
    assert path.read_text() == "first\n"


def test_a_second_writer_is_refused_until_the_first_is_done(path: Path) -> None:
    first, second = log_of(path), log_of(path)
    first.open()
    with pytest.raises(OutputError, match="one process at a time"):
        second.open()
    assert not second.is_open
    first.close()
    second.open()


def test_clearing_begins_anew(path: Path) -> None:
    path.write_text("first\nsec")
    log = log_of(path)
    log.open()
    log.clear()
    log.append("other\n")
    assert path.read_text() == "other\n"


@pytest.mark.parametrize("text", ["", "no break", "two\nlines\n"])
def test_only_whole_lines_are_taken(path: Path, text: str) -> None:
    log = log_of(path)
    log.open()
    with pytest.raises(ValueError, match="line break"):
        log.append(text)
    assert path.read_text() == ""


def test_a_folder_that_is_missing_is_named(path: Path) -> None:
    with pytest.raises(OutputError, match="must be writable"):
        log_of(path / "deeper").open()
