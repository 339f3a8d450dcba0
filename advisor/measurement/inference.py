"""How fast a trained model answers: forward passes over held-out rows, one at a time and in batches."""

from __future__ import annotations

import contextlib
import logging
import statistics
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from tqdm import tqdm

from advisor.core.benchmark import MeasuredFigure
from advisor.core.plan import ExecutionPlan
from advisor.hardware.backends.base import Runtime
from advisor.measurement.sparse_export import export_bytes, in_sparse_format
from advisor.training.data import PreparedData

WARM_UP_PASSES = 2
"""Only one, where a pass takes so long that few can be timed."""
LEAST_PASSES, MOST_PASSES = 3, 200
LEAST_S = 2.0
"""A batch is only made smaller if its passes would take longer than this, however little time there is."""
NAMES = {"": "inference", "sparse_": "the adapter in a sparse format", "merged_": "the merged model"}
STABLE_PASSES = 20
"""Fewer passes say so."""


def inference_figures(
    model: Any, data: PreparedData, execution: ExecutionPlan, runtime: Runtime, *, limit_s: float, pruned: bool = False
) -> tuple[dict[str, MeasuredFigure], list[str]]:
    """Latency and throughput of forward passes: of the model as trained, with pruned adapters in a sparse format, and,
    where it can be merged, merged.

    The model is changed: merging is done last, and in place.

    Args:
        model: As trained.
        data: Rows come from its held-out part.
        execution: Batch size of the evaluation, which is known to fit, and mixed precision. Where passes of so many
            rows would take too long, fewer are timed; the figure says how many.
        runtime: Of the device that the model is on.
        limit_s: Of the whole; at least a few passes are always timed.
        pruned: Whether the method pruned its adapters.

    Returns:
        Figures by name, and what could not be measured, with the reason.
    """
    variants = ["", *(["sparse_"] if pruned else []), *(["merged_"] if hasattr(model, "peft_config") else [])]
    most_rows = execution.evaluation_batch_size
    share_s = limit_s / (min(most_rows, 2) * len(variants))
    figures: dict[str, MeasuredFigure] = {}
    notes: list[str] = []
    for prefix in variants:
        try:
            if prefix == "sparse_":
                dense_bytes, packed_bytes = export_bytes(model)
                figures["dense_adapter_bytes"] = MeasuredFigure(dense_bytes, "pruned matrices in a safetensors file")
                figures["sparse_adapter_bytes"] = MeasuredFigure(
                    packed_bytes, "the same as a bit for each weight and the values that are not zero"
                )
            if prefix == "merged_":
                # PEFT shows a bar, and even a disabled one makes a semaphore that nobody removes at the end.
                tqdm.set_lock(threading.RLock())
                model = model.merge_and_unload()
                figures["merged_bytes"] = MeasuredFigure(footprint_bytes(model), "tensors of the merged model")
            with in_sparse_format(model) if prefix == "sparse_" else contextlib.nullcontext():
                timing = _Timing(model, data, execution, runtime)
                figures |= _figures(f"{prefix}inference_", 1, *timing.passes(1, share_s))
                most_rows = timing.affordable_rows(
                    most_rows, share_s
                )  # the same for all variants, so that they compare
                if most_rows > 1:
                    figures |= _figures(f"{prefix}inference_", most_rows, *timing.passes(most_rows, share_s))
        except Exception as failure:  # the run is done; what is measured after it must not end it
            logging.getLogger(__name__).warning("inference cannot be timed", exc_info=True)
            what = NAMES[prefix]
            text = str(failure).strip()
            reason = text.splitlines()[0] if text else type(failure).__name__
            notes.append(f"{what} could not be measured: {reason[:200]}")
    return figures, notes


def _figures(prefix: str, rows: int, passes_s: list[float], timed_rows: int) -> dict[str, MeasuredFigure]:
    batch = "batch_1" if rows == 1 else "batch_n"
    how = (
        f"{len(passes_s)} forward passes of {rows} held-out row{'' if rows == 1 else 's'} without labels, after warm-up"
    )
    unstable = "few passes" if len(passes_s) < STABLE_PASSES else ""
    low, median, high = _quartiles(passes_s)
    speed = timed_rows / sum(passes_s)
    return {
        f"{prefix}{batch}_latency_s": MeasuredFigure(median, f"median of {how}", low, high, len(passes_s), unstable),
        f"{prefix}{batch}_samples_per_s": MeasuredFigure(
            speed, f"rows over the time of {how}", samples=len(passes_s), unstable=unstable
        ),
    }


def _quartiles(values: list[float]) -> tuple[float, float, float]:
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, median, high


class _Timing:
    """Times forward passes of one model."""

    def __init__(self, model: Any, data: PreparedData, execution: ExecutionPlan, runtime: Runtime) -> None:
        self._model, self._data, self._execution, self._runtime = model, data, execution, runtime
        self._place = next(model.parameters()).device
        model.eval()

    def affordable_rows(self, most: int, limit_s: float) -> int:
        """Rows of a batch whose least number of passes fits the limit: doubled from two on, and two at least."""
        limit_s, rows = max(limit_s, LEAST_S), min(2, most)
        while (
            rows < most
            and 2 * self._pass(next(_batches(self._model, self._data, rows))) * (1 + LEAST_PASSES) <= limit_s
        ):
            rows = min(2 * rows, most)
        return rows

    def passes(self, rows: int, limit_s: float) -> tuple[list[float], int]:
        """Seconds of each pass, and rows of all of them."""
        passes_s: list[float] = []
        timed_rows, began_s = 0, time.perf_counter()
        for number, batch in enumerate(_batches(self._model, self._data, rows)):
            pass_s, taken_s = self._pass(batch), time.perf_counter() - began_s
            few = (1 + LEAST_PASSES) * pass_s > limit_s
            if number >= (1 if few else WARM_UP_PASSES):
                passes_s.append(pass_s)
                timed_rows += len(batch["input_ids"])
            if (len(passes_s) >= LEAST_PASSES and taken_s > limit_s) or len(passes_s) >= MOST_PASSES:
                break
        return passes_s, timed_rows

    def _pass(self, batch: Mapping[str, torch.Tensor]) -> float:
        inputs = {name: tensor.to(self._place) for name, tensor in batch.items()}
        with torch.no_grad(), precision(self._place.type, self._execution):
            self._runtime.synchronize()
            started_s = time.perf_counter()
            self._model(**inputs)
            self._runtime.synchronize()
            return time.perf_counter() - started_s


def _batches(model: Any, data: PreparedData, rows: int) -> Iterator[Mapping[str, torch.Tensor]]:
    """Held-out rows in their seeded order, over and over; labels only where the model makes its inputs of them.

    Of pairs of answers the preferred ones, which stand first in a batch.
    """
    needs_labels = getattr(model.config, "is_encoder_decoder", False)
    count, start = len(data.eval_dataset), 0
    while True:
        batch = data.collator([data.eval_dataset[(start + index) % count] for index in range(rows)])
        start = (start + rows) % count
        labels = () if needs_labels else ("labels", "completion_mask")
        yield {name: tensor[:rows] for name, tensor in batch.items() if name not in labels}


def precision(device_type: str, execution: ExecutionPlan) -> contextlib.AbstractContextManager[Any]:
    """Mixed precision as in training."""
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(execution.amp)
    return contextlib.nullcontext() if dtype is None else torch.autocast(device_type, dtype)


def footprint_bytes(model: Any) -> int:
    """Bytes of a model's parameters and buffers as they are stored."""
    tensors = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
