"""What moves bytes: operators bound by memory, and copies between host and device."""

from __future__ import annotations

import mmap
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from advisor.hardware.benchmarks import Figure, Scale, Workload, shrunk

if TYPE_CHECKING:
    import torch

CLASSES = ("elementwise", "transcendental", "norm", "softmax", "rng", "embedding", "copy", "reduction")
"""Operator classes that move bytes."""
QUICK_CLASSES = ("elementwise", "transcendental", "norm", "softmax", "rng")
"""Of the operator classes, those that a quick probe times: they make up nearly all traffic of an encoder."""
DROPOUT = 0.1
FIRST_TOUCH_BYTES = 64 * 2**20
"""Of fresh memory: more than any cache holds."""


def memory_figures(device: str, scale: Scale) -> Iterator[Figure]:
    """The stream through memory, and the stream that stays in cache."""
    yield _stream("memory", scale.stream_bytes, device)
    yield _stream("cache", scale.resident_bytes, device)


def first_touch_figure() -> Figure:
    """Memory of the process that was never used before."""
    return Figure("bytes_per_s", "first_touch", "first touch of memory", _first_touch, quick=True)


def class_figures(device: str, dtype: str, scale: Scale) -> Iterator[Figure]:
    """Every operator class at three sizes; a quick probe takes the largest, float32 only."""
    for name in CLASSES:
        key = name if dtype == "float32" else f"{name}/{dtype}"
        for size in scale.traffic_bytes:
            quick = name in QUICK_CLASSES and dtype == "float32" and size == scale.traffic_bytes[-1]
            yield _classed(key, name, device, dtype, size, scale, quick=quick)


def copy_figures(device: str, scale: Scale) -> Iterator[Figure]:
    """Both directions between host and device, from pinned and from pageable memory."""
    for key, pinned, upload in (
        ("host_to_device", True, True),
        ("device_to_host", True, False),
        ("host_to_device_pageable", False, True),
        ("device_to_host_pageable", False, False),
    ):
        yield _copy(key, device, scale.copy_bytes, pinned=pinned, upload=upload)


def _classed(key: str, name: str, device: str, dtype: str, size: int, scale: Scale, *, quick: bool) -> Figure:
    def build(divisor: int) -> Workload:
        import torch

        data_type = getattr(torch, dtype)
        x = torch.randn(shrunk(size, divisor, 4096) // data_type.itemsize, device=device, dtype=data_type)
        call, moved_bytes = _operator(name, x, scale)
        label = f"{x.numel()} elements of {dtype}, {moved_bytes / 2**20:.3g} MiB moved"
        return Workload(moved_bytes, label, f"{moved_bytes:.0f}", call)

    return Figure("bytes_per_s", key, f"{key}, {size // 2**10} KiB of {dtype}", build, quick=quick)


def _operator(name: str, x: torch.Tensor, scale: Scale) -> tuple[Callable[[], object], float]:
    """The representative of an operator class, to work on ``x``, and the bytes that it moves."""
    import torch

    match name:
        case "elementwise":
            other = x.clone()
            return lambda: x + other, 3.0 * x.nbytes
        case "transcendental":
            return lambda: torch.nn.functional.gelu(x), 2.0 * x.nbytes
        case "norm":  # what training calls: the mean and the deviation of each row are results, too
            rows = _rows(x, scale.norm_width)
            weight = torch.ones(rows.shape[1], device=x.device, dtype=x.dtype)
            bias = torch.zeros_like(weight)
            return lambda: torch.native_layer_norm(rows, rows.shape[1:], weight, bias, 1e-5), 2.0 * rows.nbytes
        case "softmax":
            rows = _rows(x, scale.softmax_width)
            return lambda: torch.softmax(rows, -1), 2.0 * rows.nbytes
        case "rng":  # the mask is a byte an element
            return lambda: torch.native_dropout(x, DROPOUT, True), 2.0 * x.nbytes + x.numel()
        case "embedding":
            count, width = scale.embedding_shape
            table = torch.randn(count, width, device=x.device, dtype=x.dtype)
            index = torch.randint(count, (max(1, x.numel() // width),), device=x.device)
            moved_bytes = 2.0 * index.numel() * width * x.dtype.itemsize + index.nbytes
            return lambda: torch.embedding(table, index), moved_bytes
        case "copy":  # from (tokens, heads, width) to (heads, tokens, width), as attention does before and after
            rows = _rows(x, scale.heads * scale.head_width)
            heads = rows.view(rows.shape[0], scale.heads, scale.head_width).transpose(0, 1)
            return lambda: heads.contiguous(), 2.0 * rows.nbytes
        case "reduction":  # over rows, as the gradient of a bias is
            rows = _rows(x, scale.norm_width)
            return lambda: rows.sum(0), 1.0 * rows.nbytes
    raise ValueError(f"there is no operator class {name!r}")


def _rows(x: torch.Tensor, width: int) -> torch.Tensor:
    width = min(width, x.numel())
    return x[: x.numel() // width * width].view(-1, width)


def _stream(key: str, size: int, device: str) -> Figure:
    """``out = x + 1``: reads and writes ``size`` bytes each."""

    def build(divisor: int) -> Workload:
        import torch

        x = torch.zeros(shrunk(size, divisor) // 4, device=device)
        out = torch.empty_like(x)
        label = f"read and write {x.nbytes / 2**20:g} MiB"
        return Workload(2.0 * x.nbytes, label, "", lambda: torch.add(x, 1.0, out=out))

    return Figure("bytes_per_s", key, f"{key}, {size // 2**20} MiB", build, quick=True)


def _first_touch(divisor: int) -> Workload:
    """The system finds and clears a page when it is first written to: most of a run's first step."""
    size = shrunk(FIRST_TOUCH_BYTES, divisor)
    marks = bytes(-(-size // mmap.PAGESIZE))

    def touch() -> None:
        with mmap.mmap(-1, size) as pages, memoryview(pages) as view, view[:: mmap.PAGESIZE] as firsts:
            firsts[:] = marks

    return Workload(float(size), f"{size // 2**20} MiB, a byte of every page", "", touch)


def _copy(key: str, device: str, size: int, *, pinned: bool, upload: bool) -> Figure:
    def build(divisor: int) -> Workload:
        import torch

        size_now = shrunk(size, divisor)
        on_host = torch.zeros(size_now, dtype=torch.uint8, pin_memory=pinned)
        on_device = torch.zeros(size_now, dtype=torch.uint8, device=device)
        source, target = (on_host, on_device) if upload else (on_device, on_host)
        # Without the synchronisation after each group of calls only pinned copies would return early.
        label = f"{size_now / 2**20:g} MiB {'from' if upload else 'to'} {'pinned' if pinned else 'pageable'} memory"
        return Workload(float(size_now), label, "", lambda: target.copy_(source, non_blocking=pinned))

    return Figure("bytes_per_s", key, key.replace("_", " "), build, quick=key == "host_to_device")
