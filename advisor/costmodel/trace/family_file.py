"""A traced family as one file: arrays and JSON in numpy's zip format, never pickled."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import os
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from advisor.costmodel.trace.family import TraceFamily
from advisor.costmodel.trace.symbolic import SymbolicSizes


def save_family(path: Path, family: TraceFamily) -> None:
    """Write a family, whole or not at all. A cache that cannot be written is no error: the trace is made again."""
    arrays: dict[str, Any] = {}
    plain: dict[str, Any] = {}
    for field in dataclasses.fields(family):
        value = getattr(family, field.name)
        if isinstance(value, SymbolicSizes):
            arrays[f"{field.name}.inverse"] = value.inverse
            arrays[f"{field.name}.coefficients"] = value.coefficients
        elif isinstance(value, np.ndarray):
            arrays[field.name] = value
        else:
            plain[field.name] = value
    buffer = io.BytesIO()
    np.savez_compressed(buffer, plain=np.array(json.dumps(plain)), **arrays)
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".partial")
        try:
            with os.fdopen(handle, "wb") as stream:
                stream.write(buffer.getvalue())
            os.replace(temporary, path)
        except OSError:
            os.unlink(temporary)


def load_family(path: Path) -> TraceFamily | None:
    """Read a family; ``None`` when there is none or the file is damaged."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            values: dict[str, Any] = _tuples(json.loads(str(stored["plain"])))
            for field in dataclasses.fields(TraceFamily):
                if f"{field.name}.inverse" in stored:
                    inverse, coefficients = stored[f"{field.name}.inverse"], stored[f"{field.name}.coefficients"]
                    values[field.name] = SymbolicSizes(inverse, coefficients)
                elif field.name in stored:
                    values[field.name] = stored[field.name]
            return TraceFamily(**values)
    except (OSError, KeyError, ValueError, TypeError, zipfile.BadZipFile, EOFError):
        return None


def _tuples(values: dict[str, Any]) -> dict[str, Any]:
    """JSON lists back to the tuples (of tuples) they were."""

    def convert(value: Any) -> Any:
        if not isinstance(value, list):
            return value
        nested = bool(value) and isinstance(value[0], list)
        return tuple(map(tuple, value)) if nested else tuple(value)

    return {key: convert(value) for key, value in values.items()}
