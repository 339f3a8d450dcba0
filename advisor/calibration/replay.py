"""Time single operators on real tensors, from the signatures of traced calls. Runs in an isolated process."""

from __future__ import annotations

import importlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from advisor.core.coefficients import ReplayPoint
from advisor.hardware.backends import HOST, backend_on
from advisor.hardware.timing import time_call

MAX_TENSOR_BYTES = 2 * 2**30
"""Calls that need more memory than this for one tensor are left out."""
HOST_SAMPLE_S, CARD_SAMPLE_S = 2e-4, 5e-3
"""Shortest sample on the host, where a call does not have to be waited for, and on a card."""
LIBRARIES = {"bitsandbytes": "bitsandbytes", "quantized": "torch.ao.quantization"}
"""Packages that register the operators of a namespace when imported."""
READ_ON_HOST = {
    "_scaled_dot_product_efficient_attention_backward": ("philox_seed", "philox_offset"),
    "_efficient_attention_backward": ("philox_seed", "philox_offset"),
}
"""Tensors that a CUDA operator reads on the host, where a device's address ends the process: memory-efficient
attention's random state, made there outside of graph capture (aten/src/ATen/native/transformers/cuda/
attention_backward.cu, note "Seed and Offset Device"). Flash attention's stays on the device."""


@dataclass(frozen=True)
class ReplayTask:
    """One distinct call to time.

    Attributes:
        signature: From ``encode_signature``.
        name, key, flops, moved_bytes: As in ``ReplayPoint``.
        share: How often it occurs in the traced steps.
    """

    signature: str
    name: str
    key: str
    flops: int
    moved_bytes: int
    share: int


def replay_all(
    tasks: list[ReplayTask],
    *,
    device: str,
    num_threads: int | None,
    budget_s: float,
    per_call_s: float,
    on_event: Callable[[dict[str, Any]], None],
) -> int:
    """Time every task in turn and send each point as an event, until the budget is used up.

    Args:
        tasks: In order of importance.
        device: What torch calls it.
        num_threads: Intra-op threads; torch's choice when ``None``, as in a run.
        budget_s: Wall clock for all.
        per_call_s: Wall clock for one task.
        on_event: Receives ``{"kind": "begin", "index": i}``, then ``{"kind": "point", "index": i, "point":
            ReplayPoint}`` or ``{"kind": "skipped", "index": i, "reason": str}``. A crash of the process thus names its
            task.

    Returns:
        How many tasks were reached.

    Raises:
        RuntimeError: a call left the GPU unusable for this process; the calls behind it need another one.
    """
    backend = backend_on(device)
    backend.runtime.prepare_process(num_threads)
    start = time.perf_counter()
    for index, task in enumerate(tasks):
        if time.perf_counter() - start > budget_s:
            return index
        on_event({"kind": "begin", "index": index})
        try:
            point = _replay(task, device, per_call_s)
        except Exception as failure:
            if backend.runtime.is_lost():  # every later call would fail for the same reason and never be tried again
                raise failure from None
            reason = str(failure).splitlines()[0] if str(failure) else ""
            on_event(
                {"kind": "skipped", "index": index, "reason": f"{task.name}: {type(failure).__name__}: {reason:.120}"}
            )
        else:
            on_event({"kind": "point", "index": index, "point": point})
    return len(tasks)


def _replay(task: ReplayTask, device: str, per_call_s: float) -> ReplayPoint:
    function, args, kwargs = materialize(task.signature, device)
    backend = backend_on(device)
    with torch.no_grad():
        timing = time_call(
            lambda: function(*args, **kwargs),
            budget_s=per_call_s,
            synchronize=backend.runtime.synchronize,
            min_repeats=3,
            target_s=HOST_SAMPLE_S if backend.is_host else CARD_SAMPLE_S,
        )
    return ReplayPoint(task.name, task.key, task.flops, task.moved_bytes, timing.median_s, timing.spread, task.share)


def materialize(signature: str, device: str) -> tuple[Any, Any, Any]:
    """The operator and real arguments of a recorded call.

    Floating-point tensors hold uniform numbers in (0, 1), so that neither denormals nor invalid values change the
    speed; integers are zero, except row indices, which are random; scalars held in tensors are one (step counts).
    """
    text, args, kwargs = json.loads(signature)
    namespace, name, overload = text.split(".", 2)
    if namespace in LIBRARIES:
        importlib.import_module(LIBRARIES[namespace])
    function = getattr(getattr(getattr(torch.ops, namespace), name), overload)
    rows, schema = _table_rows(name, args), function._schema.arguments
    hosted = READ_ON_HOST.get(name, ())
    places = {argument.name: HOST if argument.name in hosted else device for argument in schema}
    real_args = [_real(value, place, rows) for value, place in zip(args, places.values(), strict=False)]
    real_kwargs = {key: _real(value, places.get(key, device), rows) for key, value in kwargs.items()}
    if "device" in places and not any("Tensor" in str(argument.type) for argument in schema):
        real_kwargs["device"] = torch.device(device)  # makes a tensor from nothing: on the host by default
    return function, real_args, real_kwargs


def _table_rows(name: str, args: list[Any]) -> int:
    """How many rows an index argument may point at; 1 keeps indices at zero."""
    if name == "embedding_dense_backward":
        return int(args[2])
    first = args[0] if args and isinstance(args[0], dict) else {}
    if name == "embedding" and "tensor" in first:
        return int(first["tensor"][0][0])
    return 1


def _real(value: Any, device: str, rows: int) -> Any:
    if isinstance(value, list):
        return [_real(item, device, rows) for item in value]
    if isinstance(value, dict):
        if "torch" in value:
            return getattr(torch, value["torch"])
        if "tensor" in value:
            shape, strides, dtype_name = value["tensor"]
            return _tensor(shape, strides, dtype_name, device, rows)
        return {key: _real(item, device, rows) for key, item in value.items()}
    return value


def _tensor(shape: list[int], strides: list[int], dtype_name: str, device: str, rows: int) -> torch.Tensor:
    dtype = getattr(torch, dtype_name)
    extent = 1 + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True) if size > 0)
    if extent * dtype.itemsize > MAX_TENSOR_BYTES:
        raise MemoryError(f"a tensor of {extent * dtype.itemsize} bytes is larger than a replay may hold")
    storage = _filled(extent, dtype, device, rows, scalar=not shape)
    return torch.as_strided(storage, shape, strides)


def _filled(extent: int, dtype: torch.dtype, device: str, rows: int, *, scalar: bool) -> torch.Tensor:
    if dtype.is_floating_point:
        if scalar:
            return torch.ones(extent, dtype=dtype, device=device)
        return torch.rand(extent, device=device).add_(1e-3).to(dtype)
    if dtype == torch.bool:
        return torch.ones(extent, dtype=dtype, device=device)
    if dtype == torch.uint8:
        return torch.randint(0, 256, (extent,), dtype=dtype, device=device)
    if rows > 1 and dtype in (torch.int64, torch.int32):
        return torch.randint(0, rows, (extent,), dtype=dtype, device=device)
    return torch.zeros(extent, dtype=dtype, device=device)
