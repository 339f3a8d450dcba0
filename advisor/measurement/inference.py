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
LEAST_PASSES, MOST_PASSES = 3, 200
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
        execution: Batch size of the evaluation, which is known to fit, and mixed precision.
        runtime: Of the device that the model is on.
        limit_s: Of the whole; at least a few passes are always timed.
        pruned: Whether the method pruned its adapters.

    Returns:
        Figures by name, and what could not be measured, with the reason.
    """
    variants = ["", *(["sparse_"] if pruned else []), *(["merged_"] if hasattr(model, "peft_config") else [])]
    sizes = sorted({1, execution.evaluation_batch_size})
    share_s = limit_s / (len(sizes) * len(variants))
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
                for rows in sizes:
                    passes_s, timed_rows = _timed_passes(model, data, rows, execution, runtime, share_s)
                    figures |= _figures(f"{prefix}inference_", rows, passes_s, timed_rows)
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


def _timed_passes(
    model: Any, data: PreparedData, rows: int, execution: ExecutionPlan, runtime: Runtime, limit_s: float
) -> tuple[list[float], int]:
    """Seconds of each pass, and rows of all of them."""
    model.eval()
    place = next(model.parameters()).device
    passes_s: list[float] = []
    timed_rows, began_s = 0, time.perf_counter()
    with torch.no_grad(), precision(place.type, execution):
        for number, batch in enumerate(_batches(model, data, rows)):
            inputs = {name: tensor.to(place) for name, tensor in batch.items()}
            runtime.synchronize()
            started_s = time.perf_counter()
            model(**inputs)
            runtime.synchronize()
            ended_s = time.perf_counter()
            if number >= WARM_UP_PASSES:
                passes_s.append(ended_s - started_s)
                timed_rows += len(inputs["input_ids"])
            enough = len(passes_s) >= LEAST_PASSES and ended_s - began_s > limit_s
            if enough or len(passes_s) >= MOST_PASSES:
                break
    return passes_s, timed_rows


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
