"""Checkpoints that are whole or worthless, never in between.

The Trainer writes a checkpoint file by file; a process can be killed between any two of them. A marker that lists
every file with its size (small ones also with their digest) is therefore written last. Resuming takes the newest
folder whose marker agrees with its content, and clears away the others.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from advisor.core.run import SAVE_EVERY_S, SAVING_SHARE
from advisor.core.store import write_text_atomically

MARKER = "advisor-complete.json"
SAMPLES = "samples.json"
"""What was measured up to the checkpoint. Written as a whole and not part of what the marker vouches for, because the
evaluation that follows a checkpoint adds its metrics."""

DIGESTED_BELOW_BYTES = 2**20
"""Files up to this size are compared by content; larger ones by size, to keep saving fast."""


def mark_complete(folder: Path) -> None:
    """Flush every file of ``folder`` to the disk, then write the marker."""
    files = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and path.name not in (MARKER, SAMPLES)):
        _flush(path)
        files[str(path.relative_to(folder))] = _fingerprint(path)
    write_text_atomically(folder / MARKER, json.dumps({"files": files}, indent=1))
    _flush(folder)


def incompleteness(folder: Path) -> str | None:
    """What is wrong with a checkpoint; ``None`` when it is whole."""
    try:
        files: dict[str, dict[str, Any]] = json.loads((folder / MARKER).read_text(encoding="utf-8"))["files"]
    except (OSError, ValueError, KeyError, TypeError):
        return "it was not finished"
    for name, expected in files.items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if _fingerprint(path) != expected:
            return f"{name} was changed"
    return None


def newest_complete(root: Path) -> Path | None:
    """The checkpoint with the most steps that is whole."""
    return next((folder for folder in _by_step(root) if incompleteness(folder) is None), None)


def discard_incomplete(root: Path) -> list[Path]:
    """Remove what a killed process left half written or half deleted; returns what was removed."""
    broken = [folder for folder in _by_step(root) if incompleteness(folder) is not None]
    for folder in broken:
        _discard(folder)
    return broken


def step_of(folder: Path) -> int:
    """The optimizer step that ``checkpoint-123`` stands for."""
    return int(folder.name.rpartition("-")[2])


class CheckpointKeeper(TrainerCallback):
    """Asks for a checkpoint about every minute and at the end of every epoch, and marks it when it is whole.

    The one at the end of an epoch is written before the evaluation, so that a kill during a long evaluation loses
    nothing; the one of an evaluation within an epoch, after it.

    Args:
        root: Where the Trainer writes its ``checkpoint-*`` folders.
        samples: Gives what is measured so far, to be kept beside the checkpoint.
        save_every_s: Longest time between two checkpoints, unless writing takes more than ``SAVING_SHARE`` of it.

    Attributes:
        saving_s: Time spent on checkpoints so far.
    """

    def __init__(
        self, root: Path, samples: Callable[[], dict[str, Any]], *, save_every_s: float = SAVE_EVERY_S
    ) -> None:
        self.saving_s = 0.0
        self._root = root
        self._samples = samples
        self._least_interval_s = save_every_s
        self._interval_s = save_every_s
        self._last_save_s = math.inf
        self._save_began_s = 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._last_save_s = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        now_s = time.perf_counter()
        ends_epoch = state.epoch is not None and float(state.epoch).is_integer()
        due = now_s - self._last_save_s >= self._interval_s
        if (
            due
            or ends_epoch
            or control.should_evaluate
            or state.global_step >= state.max_steps
            or control.should_training_stop
        ):
            control.should_save = True
        if control.should_save:
            self._save_began_s = now_s
            _discard(self._root / f"checkpoint-{state.global_step}")

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        folder = self._root / f"checkpoint-{state.global_step}"
        write_text_atomically(folder / SAMPLES, json.dumps(self._samples()))
        mark_complete(folder)
        self._last_save_s = time.perf_counter()
        took_s = self._last_save_s - self._save_began_s
        self.saving_s += took_s
        self._interval_s = max(self._least_interval_s, took_s / SAVING_SHARE)

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._save_began_s = time.perf_counter()
        folder = self._root / f"checkpoint-{state.global_step}"
        if (folder / MARKER).exists():
            write_text_atomically(folder / SAMPLES, json.dumps(self._samples()))


def read_samples(folder: Path) -> dict[str, Any]:
    """What had been measured when the checkpoint was written."""
    samples: dict[str, Any] = json.loads((folder / SAMPLES).read_text(encoding="utf-8"))
    return samples


def _by_step(root: Path) -> list[Path]:
    folders = [path for path in root.glob("checkpoint-*") if path.is_dir() and path.name.rpartition("-")[2].isdigit()]
    return sorted(folders, key=step_of, reverse=True)


def _discard(folder: Path) -> None:
    """The marker goes first, so that a folder that is half deleted does not look whole."""
    (folder / MARKER).unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)


def _fingerprint(path: Path) -> dict[str, Any]:
    size_bytes = path.stat().st_size
    if size_bytes > DIGESTED_BELOW_BYTES:
        return {"size_bytes": size_bytes}
    return {"size_bytes": size_bytes, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
