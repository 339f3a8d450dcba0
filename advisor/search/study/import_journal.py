"""Studies of version 0.1, a journal and JSON files, imported once into the database."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from advisor.core.errors import InputError
from advisor.core.serialization import from_dict, read_json, to_dict
from advisor.search.study.records import Evaluation, TrialSummary
from advisor.search.study.space import Space

if TYPE_CHECKING:
    import optuna

NEWEST_SCHEMA = 1


def is_first_version(study_dir: Path) -> bool:
    """Whether the folder holds a study that was not imported yet."""
    return (study_dir / "study.json").exists()


def import_first_version(study_dir: Path, database: Path, space: Space) -> None:
    """Make the database from the old files, whole or not at all; these are left as they are.

    Finished trials keep their number, evaluations and verdict. Open ones are queued again with what they have.

    Raises:
        InputError: the old study is damaged, or newer than this version.
    """
    import optuna

    header = read_json(study_dir / "study.json", what="the study")
    version = header.get("schema_version") if isinstance(header, dict) else None
    if not isinstance(version, int) or version > NEWEST_SCHEMA:
        raise InputError(
            f"the study's schema_version must be at most {NEWEST_SCHEMA}, but {study_dir / 'study.json'} has {version}",
            fix="it was started by a newer finetune-advisor: upgrade, or start a new study in another folder",
        )
    part = database.with_name(f"{database.name}.part")
    part.unlink(missing_ok=True)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = optuna.storages.RDBStorage(f"sqlite:///{part.resolve()}")
    study = optuna.create_study(storage=storage, study_name=header["name"], direction="minimize")
    study.set_user_attr("identity", header["identity"])
    journal = _journal(study_dir / "journal.log", str(header["name"]))
    known = {number: _files_of(folder) for number, folder in _folders(study_dir)}
    for number in range(max([len(journal), *(n + 1 for n in known)], default=0)):
        old = journal[number] if number < len(journal) else None
        _copy(study, old, known.get(number), space)
    storage.engine.dispose()
    os.replace(part, database)


def _copy(study: Any, old: Any, known: TrialSummary | None, space: Space) -> None:
    from optuna.trial import TrialState, create_trial

    if known is None:
        params = {} if old is None else (dict(old.params) or dict(old.system_attrs.get("fixed_params", {})))
        waits = old is not None and not old.state.is_finished() and params
        if waits:
            study.enqueue_trial(params, user_attrs={"origin": old.user_attrs.get("origin", "sampled")})
        else:
            study.add_trial(create_trial(state=TrialState.FAIL))
        return
    attributes: dict[str, Any] = {"origin": known.origin, "record": to_dict(dataclasses.replace(known, evaluations=()))}
    attributes |= {f"evaluation/{item.train_rows}": to_dict(item) for item in known.evaluations}
    if known.verdict == "open":
        study.enqueue_trial(dict(known.params), user_attrs=attributes)
        return
    losses = {e.train_rows: e.nll for e in known.evaluations if e.feasible and e.nll is not None}
    completed = known.verdict == "completed" and known.top is not None
    state = TrialState.COMPLETE if completed else TrialState.FAIL if known.verdict == "failed" else TrialState.PRUNED
    study.add_trial(
        create_trial(
            state=state,
            value=known.top.nll if completed and known.top is not None else None,
            params=dict(known.params),
            distributions=space.distributions(known.params),
            intermediate_values=losses,
            constraints=known.constraints or None,
            user_attrs=attributes,
        )
    )


def _folders(study_dir: Path) -> list[tuple[int, Path]]:
    return sorted((int(path.parent.name), path.parent) for path in (study_dir / "trials").glob("*/trial.json"))


def _files_of(folder: Path) -> TrialSummary:
    path = folder / "trial.json"
    summary = from_dict(TrialSummary, read_json(path, what="a trial"), what=str(path))
    found = sorted(folder.glob("rung-*.json"))
    evaluations = tuple(from_dict(Evaluation, read_json(p, what="an evaluation"), what=str(p)) for p in found)
    return dataclasses.replace(summary, evaluations=evaluations)


def _journal(path: Path, name: str) -> list[optuna.trial.FrozenTrial]:
    """The trials of the journal; empty when it has gone. What a kill left half written at its end is ignored.

    Raises:
        InputError: a line before the last one is damaged, which no kill does.
    """
    import tempfile

    import optuna
    from optuna.storages.journal import JournalFileBackend, JournalStorage

    if not path.exists():
        return []
    lines = path.read_bytes().splitlines(keepends=True)
    good = next((index for index, line in enumerate(lines) if not _whole(line)), len(lines))
    if good < len(lines) - 1:
        raise InputError(
            f"the study's journal must be one JSON object a line, but {path} is damaged in line {good + 1}",
            fix="move the study's folder away and start a new study; finished evaluations stay under trials/",
        )
    with tempfile.TemporaryDirectory() as scratch:
        copy = Path(scratch) / "journal.log"
        copy.write_bytes(b"".join(lines[:good]))
        storage = JournalStorage(JournalFileBackend(str(copy)))
        if name not in optuna.get_all_study_names(storage):
            return []
        return optuna.load_study(study_name=name, storage=storage).get_trials()


def _whole(line: bytes) -> bool:
    try:
        return line.endswith(b"\n") and isinstance(json.loads(line), dict)
    except ValueError:
        return False
