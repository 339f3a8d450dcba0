"""Where results go: nothing that was there before is overwritten."""

from __future__ import annotations

from pathlib import Path

from advisor.core.errors import OutputError, PlanError
from advisor.core.plan import Plan, load_plan
from advisor.core.store import ensure_writable_dir

PLAN_FILE = "plan.json"
RECORD_FILE = "record.json"


def refuse_existing_file(path: Path) -> None:
    """Refuse to write over a file, and prove early that the folder takes files.

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


def prepare_run_dir(plan: Plan, directory: Path, *, resume: bool, needed_bytes: int = 0) -> None:
    """Make a run's folder, or check that an existing one holds this very plan unfinished.

    Args:
        plan: What is going to run.
        directory: Its folder.
        resume: Continue from the last valid checkpoint in ``directory``.
        needed_bytes: Free space that the run will take.

    Raises:
        OutputError: occupied, read-only or full.
        PlanError: the folder belongs to another plan.
    """
    occupied = directory.is_dir() and any(directory.iterdir())
    if occupied and not resume:
        raise OutputError(
            f"the output folder must be empty, but {directory} is not",
            fix="pass --resume to continue the run in it, or name another --output",
        )
    if resume and not (directory / PLAN_FILE).is_file():
        raise OutputError(
            f"--resume needs the folder of an interrupted run, but {directory} holds no {PLAN_FILE}",
            fix="check the path, or start without --resume",
        )
    if resume and not _same_run(load_plan(directory / PLAN_FILE), plan):
        raise PlanError(
            f"--resume must continue the same plan, but {directory / PLAN_FILE} is a different one",
            fix=f"`advisor run {directory / PLAN_FILE} --output {directory} --resume` continues what is there",
        )
    if resume and (directory / RECORD_FILE).is_file():
        raise OutputError(
            f"--resume needs an unfinished run, but {directory} holds a finished one",
            fix=f"its result is in {directory / RECORD_FILE}; name another --output to run again",
        )
    ensure_writable_dir(directory, needed_bytes=needed_bytes)


def _same_run(first: Plan, second: Plan) -> bool:
    """Whether two plans train the same thing; what was promised and where it was planned does not matter."""
    return all(
        getattr(first, name) == getattr(second, name) for name in ("model", "data", "strategy", "execution", "seed")
    )
