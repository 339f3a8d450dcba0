"""What a suite is run on: models and data that were named, those of its study, or stand-ins."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from advisor.core.errors import InputError
from advisor.core.store import write_text_atomically
from advisor.pipeline.inputs import DataSource

if TYPE_CHECKING:
    from advisor.experiments.suites.definition import SuiteCell, SuiteDefinition, SuiteScale


class SuiteInputs:
    """Models and data of a suite: those that were named, those of the study, or stand-ins; each with a label."""

    def __init__(
        self,
        suite: SuiteDefinition,
        scale: SuiteScale,
        model: Mapping[str, str] | str | None,
        data: Mapping[str, DataSource] | DataSource | None,
        folder: Path,
    ) -> None:
        self._suite, self._scale, self._folder = suite, scale, folder
        self._model = _by_key(model, suite.models, "--model")
        self._data = _by_key(data, suite.data, "--data")
        self.labels: dict[str, str] = {}
        self.constructed: set[str] = set()
        self.stand_in = False
        self._found: dict[str, Any] = {}

    def model(self, key: str) -> str:
        """What to train for a backbone of the study."""
        known = self._suite.models[key]
        if key not in self._found:
            if key in self._model:
                found, why = self._model[key], "given"
            elif self._scale.reaches_hub and _reachable(known.hub):
                found, why = known.hub, "as published"
            else:
                found, why = known.stand_in, f"stand-in for {known.hub or 'the study’s model'}"
                self.stand_in = True
            self._found[key], self.labels[f"model {key}"] = found, f"{found} ({why})"
        return str(self._found[key])

    def data(self, key: str, cell: SuiteCell) -> DataSource:
        """What to train on, cut to the scale's size."""
        scale, own = self._scale, self._scale.data.get(key, {})
        return dataclasses.replace(
            self._source(key),
            max_train_rows=own.get("train_rows", scale.train_rows),
            max_eval_rows=own.get("eval_rows", scale.eval_rows),
            max_seq_length=own.get("max_seq_length", scale.max_seq_length or cell.max_seq_length),
        )

    def _source(self, key: str) -> DataSource:
        known = self._suite.data[key]
        name = f"data {key}"
        if name in self._found:
            found: DataSource = self._found[name]
            return found
        if key in self._data:
            source, why = self._data[key], "given"
        elif self._scale.reaches_hub and _reachable(known.hub, kind="dataset"):
            columns: dict[str, Any] = dict(known.columns)
            source = DataSource(known.hub, split=known.split, eval_source=known.eval_split, **columns)
            why = "as published"
        else:
            source, why = DataSource(known.stand_in), f"stand-in for {known.hub or 'the study’s data'}"
            self.stand_in = True
            if known.pairs:
                path = self._folder / f"{known.stand_in}-pairs.jsonl"
                _write_pairs(known.stand_in, known.task, path)
                source = DataSource(str(path))
                self.constructed.add(key)
        shown = f"pairs made of {known.stand_in}" if key in self.constructed else source.source
        self._found[name], self.labels[name] = source, f"{shown} ({why})"
        return source


def _by_key(values: Any, known: Mapping[str, Any], option: str) -> dict[str, Any]:
    """What was named, for each of the suite's own keys.

    Raises:
        InputError: a key that the suite does not have.
    """
    if values is None:
        return {}
    if not isinstance(values, Mapping):
        return dict.fromkeys(known, values)
    if unknown := sorted(set(values) - set(known)):
        raise InputError(
            f"{option} must name some of {', '.join(known)}, but got {', '.join(unknown)}",
            fix=f"write for example {option} {next(iter(known))}=FOLDER",
        )
    return dict(values)


def _reachable(hub: str, kind: str = "model") -> bool:
    """Whether a hub id is at hand or can be asked for."""
    if not hub:
        return False
    from huggingface_hub import HfApi, snapshot_download

    try:
        snapshot_download(hub, repo_type=kind, local_files_only=True)
        return True
    except Exception:  # not in the cache, whatever the library calls that
        pass
    try:
        HfApi().repo_info(hub, repo_type=kind, timeout=10.0)
        return True
    except Exception:  # offline by setting, no network, no such repository, no access
        return False


def _write_pairs(name: str, task: str, path: Path) -> None:
    """Pairs of labelled texts with three classes: both of the first class, both of the second, one of each."""
    import json

    from advisor.experiments.suites.pairs import sentence_pairs
    from advisor.training.data import load_rows, resolve_data
    from advisor.training.data.rows import LabelledText

    if path.is_file():
        return
    rows = load_rows(resolve_data(name, task=task), task)
    labelled = [(row.text, row.label) for row in (*rows.train, *rows.eval) if isinstance(row, LabelledText)]
    pairs = sentence_pairs(labelled, rows.label_names)
    write_text_atomically(path, "".join(json.dumps(pair, ensure_ascii=False) + "\n" for pair in pairs))
