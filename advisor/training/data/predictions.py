"""Predictions by item as a Parquet file, so that runs can be compared item by item."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from advisor.core.errors import DataError

ITEM, ROW = "item", "row"
"""Columns of a file beside those of the predictions: a hash of the item's content, and its place among the held-out
items."""
LABEL_NAMES = b"label_names"


def write_predictions(
    path: Path, columns: Mapping[str, NDArray[Any]], *, items: Sequence[str], label_names: Sequence[str] = ()
) -> None:
    """Write the columns of predictions, whole or not at all.

    Args:
        path: Of the file.
        columns: One entry per item; of shape (items,) or (items, k), or of objects.
        items: A hash of each item's content.
        label_names: By class index, kept beside the table.

    Raises:
        OSError: the disk is full, for example; nothing is left of the file.
    """
    import json

    import pyarrow as pa
    from pyarrow import parquet

    values = {ITEM: pa.array(list(items)), ROW: pa.array(np.arange(len(items)))}
    for name, column in columns.items():
        values[name] = pa.array(list(column)) if column.ndim > 1 or column.dtype == object else pa.array(column)
    table = pa.table(values).replace_schema_metadata({LABEL_NAMES: json.dumps(list(label_names)).encode()})
    partial = path.with_name(f"{path.name}.partial")
    try:
        parquet.write_table(table, partial)
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def read_predictions(path: Path) -> tuple[dict[str, NDArray[Any]], tuple[str, ...]]:
    """Columns as ``write_predictions`` took them, with ``ITEM`` and ``ROW``; and the label names.

    Raises:
        DataError: there is no such file, or it is none of these.
    """
    import json

    import pyarrow as pa
    from pyarrow import parquet

    try:
        table = parquet.read_table(path)
    except FileNotFoundError:
        raise DataError(
            f"a run must have kept its predictions, but there is no {path}",
            fix="run it again, or measure its model on any data with `advisor evaluate`",
        ) from None
    except (OSError, pa.ArrowException) as failure:
        raise DataError(f"{path} must be a Parquet file of predictions, but reading it failed: {failure}") from None
    if not {ITEM, ROW} <= set(table.column_names):
        raise DataError(f"{path} must be a file of predictions, but it has no columns {ITEM} and {ROW}")
    columns = {name: _array(table.column(name).to_pylist()) for name in table.column_names}
    names = (table.schema.metadata or {}).get(LABEL_NAMES, b"[]")
    return columns, tuple(json.loads(names))


def _array(values: list[Any]) -> NDArray[Any]:
    """Numbers, and lists of numbers of one length, as numbers; everything else as objects."""
    try:
        found = np.array(values)
    except ValueError:  # lists of different lengths
        found = np.empty(len(values), dtype=object)
        found[:] = values
    return found if found.dtype.kind in "biuf" else found.astype(object)
