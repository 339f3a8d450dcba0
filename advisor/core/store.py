"""Where things live on disk: shipped resources, the user's data directory, and writes that cannot be half done."""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from advisor.core.errors import OutputError

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
    with output_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
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


@contextlib.contextmanager
def output_errors(path: Path) -> Iterator[None]:
    """Turns the system's refusal to write ``path`` into an ``OutputError`` that says why."""
    try:
        yield
    except OSError as failure:
        reason = {
            errno.ENOSPC: "the disk is full",
            errno.EDQUOT: "the disk quota is used up",
            errno.EROFS: "the file system is read-only",
            errno.EACCES: "permission denied",
            errno.ENOTDIR: "a part of the path is a file",
        }.get(failure.errno or 0, str(failure))
        full = failure.errno in (errno.ENOSPC, errno.EDQUOT)
        fix = "free some space, or name another folder" if full else "name another folder"
        raise OutputError(f"{path} must be writable, but {reason}", fix=fix) from failure
