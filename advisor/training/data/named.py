"""Data sets that have a name: the demo sets, and those that other packages add with entry points.

A package adds one with a subclass of ``NamedDataset``::

    [project.entry-points."advisor.datasets"]
    my-reviews = "my_package.reviews:MyReviews"

A name goes before a file or a hub id that is called the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from advisor.core.errors import DataError
from advisor.core.registry import Registry
from advisor.training.data.asset_catalog import ASSETS
from advisor.training.data.tables import Table, read_table, table_from_records
from advisor.training.data.text_files import file_kind


class NamedDataset:
    """A table with a name. Give it a ``path`` or ``rows``.

    Attributes:
        name: In the registry, and ``DataSpec.source``.
        description: One line.
        columns: Names of its columns. They are detected like those of a file, and say which task is meant.
    """

    name: str
    description: str
    columns: tuple[str, ...]

    def path(self) -> Path | None:
        """A CSV, JSONL or Parquet file that holds the rows; ``None`` where ``rows`` makes them.

        Raises:
            DataError: it must be fetched first; the message says how.
        """
        return None

    def rows(self) -> Iterable[Mapping[str, Any]]:
        """The rows, always the same and in the same order."""
        raise NotImplementedError(f"{type(self).__name__} has neither a path nor rows")

    def table(self) -> Table:
        """All of it.

        Raises:
            DataError: it cannot be read, or has no row.
        """
        path = self.path()
        if path is not None:
            return read_table(path, file_kind(path) or "jsonl")
        table = table_from_records(self.name, list(self.rows()))
        if table.num_rows == 0:
            raise DataError(f"a data set must have at least one row, but {self.name} has none", fix="name another one")
        return table


class DemoDataset(NamedDataset):
    """A demo set, unpacked in the demo folder."""

    def __init__(self, name: str) -> None:
        asset = ASSETS[name]
        self.name, self.description, self.columns = name, asset.description, asset.columns

    def path(self) -> Path:
        from advisor.training.data.asset_store import asset_path

        return asset_path(self.name)


def _demo_sets() -> Iterator[NamedDataset]:
    return (DemoDataset(asset.name) for asset in ASSETS.values() if asset.kind == "data")


DATASETS: Registry[NamedDataset] = Registry("advisor.datasets", "data set", NamedDataset, _demo_sets)
