"""Records of a study on disk: what it is about, and every finished evaluation and trial, whole or not at all."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from advisor.core.errors import InputError
from advisor.core.serialization import from_dict, read_json, to_json
from advisor.core.store import write_text_atomically
from advisor.search.study.records import Evaluation, NeverStarted, TrialSummary
from advisor.search.study.space import Space

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class StudyHeader:
    """``study.json``: what stays fixed when a study is resumed.

    Attributes:
        identity: What the study is about, part by part (see ``Setting.identity``).
        space: What is left of the declared space inside the budget.
        never_started: What was cut off.
        direction: Of the stored objective: ``"maximize"`` the metric's score, or ``"minimize"`` the loss per item.
    """

    name: str
    identity: dict[str, str]
    space: Space
    never_started: tuple[NeverStarted, ...]
    ladder_rows: tuple[int, ...]
    full_rows: int
    direction: str
    schema_version: int = SCHEMA_VERSION

    def save(self, study_dir: Path) -> None:
        write_text_atomically(study_dir / "study.json", to_json(self))


def load_header(study_dir: Path) -> StudyHeader | None:
    """The header of the study in a folder; ``None`` if there is no study.

    Raises:
        InputError: damaged, or written by a newer version.
    """
    path = study_dir / "study.json"
    if not path.exists():
        return None
    values = read_json(path, what="the study")
    version = values.get("schema_version") if isinstance(values, dict) else None
    if isinstance(version, int) and version > SCHEMA_VERSION:
        raise InputError(
            f"the study's schema_version must be at most {SCHEMA_VERSION}, but {path} has {version}",
            fix="it was started by a newer finetune-advisor: upgrade, or start a new study in another folder",
        )
    return from_dict(StudyHeader, values, what=str(path))


class TrialFiles:
    """The records of finished evaluations and trials."""

    def __init__(self, study_dir: Path) -> None:
        self._dir = study_dir / "trials"

    def folder(self, number: int) -> Path:
        return self._dir / f"{number:04d}"

    def run_dir(self, number: int, train_rows: int) -> Path:
        return self.folder(number) / f"run-{train_rows:06d}"

    def attempts(self, number: int, train_rows: int) -> int:
        """How often this run was begun without coming to an end."""
        path = self._begun(number, train_rows)
        return int(path.read_text(encoding="utf-8") or 0) if path.exists() else 0

    def begin(self, number: int, train_rows: int) -> None:
        """Note that a run begins, so that one that takes the whole study down is not begun for ever."""
        write_text_atomically(self._begun(number, train_rows), str(self.attempts(number, train_rows) + 1))

    def forgive(self, number: int, train_rows: int) -> None:
        """The run ended for a reason of its own or of the user: not an attempt that counts."""
        self._begun(number, train_rows).unlink(missing_ok=True)

    def save_evaluation(self, number: int, evaluation: Evaluation) -> None:
        write_text_atomically(self.folder(number) / f"rung-{evaluation.train_rows:06d}.json", to_json(evaluation))

    def save_trial(self, summary: TrialSummary) -> None:
        write_text_atomically(
            self.folder(summary.number) / "trial.json", to_json(dataclasses.replace(summary, evaluations=()))
        )

    def trial(self, number: int) -> TrialSummary | None:
        """A trial as far as it came, with its finished evaluations in order of rising rows."""
        path = self.folder(number) / "trial.json"
        if not path.exists():
            return None
        summary = from_dict(TrialSummary, read_json(path, what="a trial"), what=str(path))
        paths = sorted(self.folder(number).glob("rung-*.json"))
        evaluations = tuple(
            from_dict(Evaluation, read_json(found, what="an evaluation"), what=str(found)) for found in paths
        )
        return dataclasses.replace(summary, evaluations=evaluations)

    def numbers(self) -> list[int]:
        """Trials that left a record."""
        return sorted(int(path.parent.name) for path in self._dir.glob("*/trial.json"))

    def _begun(self, number: int, train_rows: int) -> Path:
        return self.folder(number) / f"begun-{train_rows:06d}"
