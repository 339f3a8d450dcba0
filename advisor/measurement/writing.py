"""Texts that a trained model writes from held-out rows, as further columns of its predictions."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np

from advisor.core.data import DataSpec
from advisor.core.metrics import WRITTEN
from advisor.core.plan import Plan
from advisor.core.units import counted
from advisor.measurement.inference import precision
from advisor.training.data import PreparedData, load_rows
from advisor.training.tasks import get_task
from advisor.training.written_texts import write_texts


def written_columns(
    model: Any, plan: Plan, spec: DataSpec, data: PreparedData, tokenizer: Any, *, limit_s: float | None = None
) -> tuple[dict[str, Any], list[str]]:
    """The texts with their scores, and notes about what was left out.

    Args:
        model: As trained.
        plan: Of the run.
        spec: Where the held-out rows come from.
        data: These rows, prepared.
        tokenizer: The model's own.
        limit_s: As ``write_texts`` takes it.
    """
    task = get_task(plan.model.task)
    if not task.traits.writes_texts:
        return {}, []
    try:
        with precision(next(model.parameters()).device.type, plan.execution):
            written = write_texts(
                model, data, tokenizer, batch_size=plan.execution.evaluation_batch_size, limit_s=limit_s
            )
        columns = {WRITTEN: np.array([*written, None], dtype=object)[:-1]}
        columns |= task.written_columns(spec, written, load_rows(spec, plan.model.task).eval)
    except ImportError as failure:
        return {}, [f"texts that the model writes are not scored: {failure}"]
    except Exception as failure:  # the run is done; what is measured after it must not end it
        logging.getLogger(__name__).warning("written texts cannot be measured", exc_info=True)
        return {}, [f"texts that the model writes could not be measured: {str(failure).strip().splitlines()[0][:200]}"]
    done = sum(text is not None for text in written)
    if done == len(written):
        return columns, []
    rows = counted(len(written), "held-out row")
    return columns, [f"the model wrote texts from the first {done} of {rows}; `advisor evaluate` takes them all"]
