"""Where results go: nothing that was there before is overwritten."""

from __future__ import annotations

from pathlib import Path

from advisor.core.errors import OutputError
from advisor.core.store import ensure_writable_dir

PLAN_FILE = "plan.json"
RECORD_FILE = "record.json"
EVALUATION_FILE = "evaluation.json"
EVALUATIONS = "evaluations"
"""Folder of evaluations on other data, within that of a run."""


def refuse_existing_file(path: Path) -> None:
    """Refuse to write over a file, and prove early that its folder takes files.

    Raises:
        OutputError: the file exists, or its folder is read-only or full.
    """
    if path.is_dir():
        raise OutputError(f"the output must be a file, but {path} is a folder", fix=f"pass --output {path / PLAN_FILE}")
    if path.exists():
        raise OutputError(
            f"the output must not exist yet, but {path} does",
            fix="name another --output, or pass --force to replace it",
        )
    ensure_writable_dir(path.parent)
