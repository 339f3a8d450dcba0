"""Text in, batches out: reading, checking, splitting, measuring and tokenising training text.

``resolve_data`` -> DataSpec -> ``load_rows`` / ``profile_data`` / ``prepare_data``. Nothing here imports torch,
transformers or datasets before it is needed: a local CSV or JSONL file never needs `datasets`, a profile never torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from advisor.core.data import DataProfile, DataSpec
from advisor.core.model import ModelSpec
from advisor.training.data.loading import load_rows
from advisor.training.data.resolving import resolve_data
from advisor.training.data.rows import Rows

if TYPE_CHECKING:
    from advisor.training.data.preparing import PreparedData

__all__ = ["PreparedData", "Rows", "load_rows", "prepare_data", "profile_data", "resolve_data"]


def profile_data(spec: DataSpec, model: ModelSpec, tokenizer: Any, *, max_seq_length: int | None = None) -> DataProfile:
    """See `advisor.training.data.profiling.profile_data`."""
    from advisor.training.data import profiling

    return profiling.profile_data(spec, model, tokenizer, max_seq_length=max_seq_length)


def prepare_data(spec: DataSpec, model: ModelSpec, tokenizer: Any, *, max_seq_length: int) -> PreparedData:
    """See `advisor.training.data.preparing.prepare_data`."""
    from advisor.training.data import preparing

    return preparing.prepare_data(spec, model, tokenizer, max_seq_length=max_seq_length)


def __getattr__(name: str) -> Any:
    if name == "PreparedData":
        from advisor.training.data.preparing import PreparedData

        return PreparedData
    raise AttributeError(name)
