"""Where things live on disk: shipped resources, the user's data directory, and writes that cannot be half done."""

from __future__ import annotations

import contextlib
import errno
import os
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from advisor.core.errors import AdvisorError, OutputError

USER_DATA_VARIABLE = "ADVISOR_HOME"


def resource_dir(name: str) -> Path:
    """Folder of shipped, read-only data: ``"profiles"`` or ``"calibration"``.

    In a wheel they lie in ``advisor/resources``; in an editable install beside the package.
    """
    package = Path(__file__).resolve().parents[1]
    for candidate in (package / "resources" / name, package.parent / name):
        if candidate.is_dir():
            return candidate
    raise FileNotFoundError(f"the advisor's own {name}/ folder is missing; reinstall finetune-advisor")


def user_data_dir(*parts: str) -> Path:
    """Folder for what this machine learned (created on demand).

    ``$ADVISOR_HOME``, else ``$XDG_DATA_HOME/finetune-advisor``, else ``~/.local/share/finetune-advisor``.
    """
    override = os.environ.get(USER_DATA_VARIABLE)
    shared = Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local/share")
    base = Path(override) if override else shared / "finetune-advisor"
    folder = base.expanduser().joinpath(*parts)
    _make_kept(folder)
    return folder


def user_cache_dir(*parts: str) -> Path:
    """Folder for what can be computed again (created on demand).

    ``$ADVISOR_HOME/cache``, else ``$XDG_CACHE_HOME/finetune-advisor``, else ``~/.cache/finetune-advisor``.
    """
    override = os.environ.get(USER_DATA_VARIABLE)
    shared = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    base = Path(override) / "cache" if override else shared / "finetune-advisor"
    folder = base.expanduser().joinpath(*parts)
    _make_kept(folder)
    return folder


def write_text_atomically(path: Path, text: str) -> None:
    """Write a whole file or nothing: a temporary file in the same folder, flushed to disk, then renamed.

    Raises:
        OutputError: the folder is missing, read-only or full; an existing file is left as it was.
    """
    with output_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as stream:
                stream.write(text)
                stream.flush()
                os.fsync(stream.fileno())
            os.chmod(temporary, 0o644)
            os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise


def ensure_writable_dir(path: Path, *, needed_bytes: int = 0) -> None:
    """Create ``path`` and prove that it takes files and has ``needed_bytes`` free.

    Raises:
        OutputError: it is a file, read-only, or too full.
    """
    with output_errors(path):
        if path.exists() and not path.is_dir():
            raise OutputError(f"the output must be a folder, but {path} is a file", fix="name another --output")
        path.mkdir(parents=True, exist_ok=True)
        handle, probe = tempfile.mkstemp(prefix=".advisor-write-test-", dir=path)
        try:
            os.write(handle, b"\0" * 4096)
            os.fsync(handle)
        finally:
            os.close(handle)
            os.unlink(probe)
        free_bytes = os.statvfs(path).f_bavail * os.statvfs(path).f_frsize
    if free_bytes < needed_bytes:
        raise OutputError(
            f"the output needs {needed_bytes} bytes, but {path} has {free_bytes} bytes free",
            fix="free some space or name another --output",
        )


def _make_kept(folder: Path) -> None:
    """Creates a folder that the user did not name: the fix says how to name another one."""
    try:
        with output_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
    except OutputError as failure:
        fix = f"set {USER_DATA_VARIABLE} to a folder that can be written"
        raise OutputError(failure.message, fix=fix) from failure


@contextlib.contextmanager
def output_errors(path: Path) -> Iterator[None]:
    """Turns the system's refusal to write ``path`` into an ``OutputError`` that says why."""
    try:
        yield
    except OSError as failure:
        reason = {
            errno.ENOSPC: "the disk is full",
            errno.EDQUOT: "the disk quota is used up",
            errno.EFBIG: "files may not be so large here",
            errno.EROFS: "the file system is read-only",
            errno.EACCES: "permission denied",
            errno.ENOTDIR: "a part of the path is a file",
        }.get(failure.errno or 0, str(failure))
        full = failure.errno in (errno.ENOSPC, errno.EDQUOT)
        fix = "free some space, or name another folder" if full else "name another folder"
        raise OutputError(f"{path} must be writable, but {reason}", fix=fix) from failure


@contextlib.contextmanager
def database_errors(path: Path, damaged: Callable[[Path, object], AdvisorError]) -> Iterator[None]:
    """Turns what SQLite refuses into typed errors.

    Args:
        path: Of the database.
        damaged: The error to raise where the file's content cannot be used, made of its path and SQLite's reason.

    Raises:
        AdvisorError: ``damaged``.
        OutputError: the file cannot be written: the disk is full, or it is read-only, or locked for too long.
    """
    reasons = {
        sqlite3.SQLITE_FULL: "the disk is full",
        sqlite3.SQLITE_READONLY: "it is read-only",
        sqlite3.SQLITE_BUSY: "another process keeps it locked",
        sqlite3.SQLITE_CANTOPEN: "it cannot be opened",
    }
    try:
        yield
    except sqlite3.Error as failure:
        code = getattr(failure, "sqlite_errorcode", sqlite3.SQLITE_MISUSE) & 0xFF  # without the extended part
        if code == sqlite3.SQLITE_MISUSE:
            raise
        if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR):
            raise damaged(path, failure) from failure
        raise OutputError(
            f"{path} must be writable, but {reasons.get(code, failure)}",
            fix=f"free some space, or set {USER_DATA_VARIABLE} to a folder elsewhere",
        ) from failure


@contextlib.contextmanager
def file_lock(path: Path, *, busy: OutputError) -> Iterator[None]:
    """No other process holds the lock meanwhile. It is the one SQLite puts on a file, so every system has it, and it
    ends with the process.

    Args:
        path: A file for nothing but the lock; made if it is missing.
        busy: Raised at once when another process holds it.

    Raises:
        OutputError: ``busy``, or the file cannot be made.
    """

    def damaged(where: Path, why: object) -> OutputError:
        return OutputError(f"{where} must be a lock, but it is something else: {why}", fix="delete it")

    with (
        database_errors(path, damaged),
        contextlib.closing(sqlite3.connect(path, timeout=0, isolation_level=None)) as lock,
    ):
        try:
            lock.execute("BEGIN EXCLUSIVE")
        except sqlite3.OperationalError as failure:
            if failure.sqlite_errorcode == sqlite3.SQLITE_BUSY:
                raise busy from None
            raise
        yield
