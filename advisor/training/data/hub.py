"""`datasets` folders and hub data sets. The library is heavy, so it is imported only when such a source is read."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from advisor.core.errors import DataError
from advisor.training.data.tables import LazyColumns, Table, present

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+(:[\w.-]+)?|[\w.-]+:[\w.-]+")
"""``owner/name``, optionally with ``:configuration``; the old names without an owner need the configuration."""

_FOLDER_MARKS = ("dataset_dict.json", "state.json")


def is_saved_dataset(path: Path) -> bool:
    """Whether a folder was written by ``save_to_disk``."""
    return any((path / mark).is_file() for mark in _FOLDER_MARKS)


def read_split(source: str, split: str | None, *, default: str = "train") -> Table:
    """One split of a saved folder or of a hub data set.

    Args:
        source: Folder or hub id.
        split: Name of the split; ``None`` takes ``default``, or the only one.
        default: Tried when no split was named.

    Raises:
        DataError: not found, not reachable, or without that split.
    """
    folder = Path(source).expanduser()
    loaded = _load_folder(folder) if folder.is_dir() else _load_hub(source)
    if not isinstance(loaded, dict):
        if split not in (None, default):
            raise DataError(
                f"the split must exist, but {source} is a single set without splits", fix="leave the split out"
            )
        return _table(source, loaded)
    wanted = split or (default if default in loaded else next(iter(loaded)) if len(loaded) == 1 else default)
    if wanted not in loaded:
        raise DataError(
            f"the split must exist, but {source} has no split {wanted!r}", fix=f"choose from {', '.join(loaded)}"
        )
    unused = tuple(name for name in loaded if name != wanted)
    return _table(f"{source} [{wanted}]", loaded[wanted], unused)


def _load_folder(folder: Path) -> Any:
    import datasets

    try:
        return datasets.load_from_disk(str(folder))
    except Exception as failure:  # the library raises whatever its readers raise on damaged files
        raise DataError(
            f"the data must be a saved `datasets` folder, but {folder} is not readable: {failure}"
        ) from None


def _load_hub(source: str) -> Any:
    import datasets

    path, _, configuration = source.partition(":")
    try:
        return datasets.load_dataset(path, configuration or None)
    except Exception as failure:  # many exception types of network, hub and builder; all mean the same here
        offline = datasets.config.HF_HUB_OFFLINE
        reason = (
            "offline mode is on and it is not in the cache" if offline else (str(failure) or type(failure).__name__)
        )
        raise DataError(
            f"the data set must be loadable, but {source!r} is not: {reason.splitlines()[0][:300]}",
            fix="check the name and the network, or save the rows as CSV, JSONL or Parquet and name the file",
        ) from None


def _table(name: str, split: Any, other_splits: tuple[str, ...] = ()) -> Table:
    columns = LazyColumns(split.column_names, lambda column: present(split[column]))
    names = {
        column: tuple(names)
        for column, feature in split.features.items()
        if (names := getattr(feature, "names", None) or getattr(getattr(feature, "feature", None), "names", None))
    }
    if not split.num_rows:
        raise DataError(f"a data set must have at least one row, but {name} has none", fix="name another split")
    return Table(name, columns, split.num_rows, names, other_splits=other_splits)
