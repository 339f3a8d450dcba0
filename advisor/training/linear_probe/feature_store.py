"""Features kept on disk, so that rows are passed through a frozen model once.

One memory-mapped ``.npy`` file and one JSON file per key, which is made of the contents of model and data. It is only a
cache: what cannot be read is computed again, and what cannot be written is not kept.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from advisor.core.code_version import MODEL_LIBRARIES, code_version
from advisor.core.errors import AdvisorError
from advisor.core.model import ModelSpec
from advisor.core.store import user_cache_dir, write_text_atomically

MOST_BYTES = 2 << 30
"""Of all kept features; the longest unused ones go first."""
FREE_BYTES = 1 << 30
"""Left free on the disk."""
WHOLE_FILE_BYTES, BLOCKS, BLOCK_BYTES = 8 << 20, 64, 64 << 10
"""Files of a model up to this size are read whole for its fingerprint; of larger ones as many blocks of this size,
evenly spread, with the first and the last one: a trained model differs from its origin nearly everywhere."""
FEATURE_CODE = ("advisor.training.linear_probe.pooling", "advisor.training.build", "advisor.training.data")

Features = NDArray[np.float32]


@dataclass(frozen=True)
class KeptFeatures:
    """Features of the first held-out and of the first training rows, each float32 of shape (rows, width)."""

    evaluation: Features
    training: Features


def feature_key(model: ModelSpec, model_fingerprint: str, data_fingerprint: str, *parts: Any) -> str:
    """Name of the features of a model's content, a data set's content, and what else they depend on, as JSON."""
    content = [model_fingerprint, model.task, data_fingerprint, code_version(FEATURE_CODE, MODEL_LIBRARIES), *parts]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:32]


def content_fingerprint(model: ModelSpec) -> str:
    """SHA-256 over a model's files, sampled where they are large; empty where its files are not at hand."""
    path = _files_of(model)
    if path is None:
        return ""
    digest = hashlib.sha256()
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    try:
        for file in files:
            if file.is_file():
                digest.update(f"{file.name} {file.stat().st_size}\n".encode())
                for block in _blocks(file):
                    digest.update(block)
    except OSError:
        return ""
    return digest.hexdigest()


def _files_of(model: ModelSpec) -> Path | None:
    """The folder or file of a model; of one on the hub, the folder in the hub's own cache."""
    if model.kind != "hub":
        return Path(model.source).expanduser()
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(model.source, "config.json", revision=model.revision)
    return Path(found).parent if isinstance(found, str) else None


def _blocks(file: Path) -> Iterator[bytes]:
    size_bytes = file.stat().st_size
    with file.open("rb") as stream:
        if size_bytes <= WHOLE_FILE_BYTES:
            yield stream.read()
            return
        for index in range(BLOCKS):
            stream.seek((size_bytes - BLOCK_BYTES) * index // (BLOCKS - 1))
            yield stream.read(BLOCK_BYTES)


def load_features(key: str) -> KeptFeatures | None:
    """What is kept under a key, mapped into memory; ``None`` where there is nothing, or the file is damaged."""
    with contextlib.suppress(AdvisorError, OSError, ValueError, TypeError, KeyError):
        array_file, facts_file = _files(key)
        facts = json.loads(facts_file.read_text(encoding="utf-8"))
        rows = np.load(array_file, mmap_mode="r", allow_pickle=False)
        held_out, checksum = int(facts["eval_rows"]), int(facts["checksum"])
        if rows.ndim != 2 or rows.dtype != np.float32 or _checksum(rows) != checksum:
            return None
        os.utime(array_file)
        return KeptFeatures(rows[:held_out], rows[held_out:])
    return None


def keep_features(key: str, features: KeptFeatures) -> None:
    """Write features under a key, whole or not at all; nothing happens where they are too large or cannot be
    written.
    """
    size_bytes = features.evaluation.nbytes + features.training.nbytes
    if size_bytes > MOST_BYTES:
        return
    with contextlib.suppress(AdvisorError, OSError):
        array_file, facts_file = _files(key)
        _make_room(array_file.parent, size_bytes)
        if shutil.disk_usage(array_file.parent).free < size_bytes + FREE_BYTES:
            return
        handle, temporary = tempfile.mkstemp(dir=array_file.parent, suffix=".partial")
        try:
            rows = np.concatenate([features.evaluation, features.training])
            with os.fdopen(handle, "wb") as stream:
                np.save(stream, rows, allow_pickle=False)
            facts = {"eval_rows": len(features.evaluation), "checksum": _checksum(rows)}
            facts_file.unlink(missing_ok=True)  # a reader that comes in between finds nothing, not a mixture
            os.replace(temporary, array_file)
        finally:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
        write_text_atomically(facts_file, json.dumps(facts))


def _checksum(rows: Features) -> int:
    return zlib.crc32(np.ascontiguousarray(rows).data)


def _files(key: str) -> tuple[Path, Path]:
    folder = user_cache_dir("features")
    return folder / f"{key}.npy", folder / f"{key}.json"


def _make_room(folder: Path, wanted_bytes: int) -> None:
    kept = sorted(folder.glob("*.npy"), key=lambda file: file.stat().st_mtime)
    total = sum(file.stat().st_size for file in kept)
    for file in kept:
        if total + wanted_bytes <= MOST_BYTES:
            break
        total -= file.stat().st_size
        file.with_suffix(".json").unlink(missing_ok=True)
        file.unlink(missing_ok=True)
