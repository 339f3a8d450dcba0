"""Text in, batches out: reading, checking, splitting, measuring and tokenising training text.

``resolve_data`` -> DataSpec -> ``load_rows`` / ``profile_data`` / ``prepare_data``. Nothing here imports torch,
transformers or datasets before it is needed: a local CSV or JSONL file never needs `datasets`, a profile never torch.
Modules are imported with the first use of one of their names, since a task needs few of them to say what it is.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from advisor.training.data.loading import load_rows
    from advisor.training.data.preparing import PreparedData, prepare_data
    from advisor.training.data.profiling import profile_data
    from advisor.training.data.resolving import resolve_data
    from advisor.training.data.rows import Rows

__all__ = ["PreparedData", "Rows", "load_rows", "prepare_data", "profile_data", "resolve_data"]

_MODULES = {
    "PreparedData": "preparing",
    "Rows": "rows",
    "load_rows": "loading",
    "prepare_data": "preparing",
    "profile_data": "profiling",
    "resolve_data": "resolving",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
