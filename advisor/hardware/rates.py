"""Measured rates of one device: matrix products by data type and shape, memory traffic, the cost of launching an
operator.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from advisor.hardware.timing import Timing, time_call

if TYPE_CHECKING:
    import torch

CPU_SQUARES, CUDA_SQUARES = (256, 512, 1024), (1024, 2048, 4096, 8192)
"""Square products; on CPU they span the sizes of encoder layers, on CUDA they are large enough to reach the peak."""
CPU_ROWS, CUDA_ROWS = 1024, 8192
LAYER_WIDTHS = ((384, 1536), (768, 3072))
"""Input and output widths of the feed-forward layers of MiniLM-L6 and BERT-base."""
STORAGE_BYTES = 16 * 2**20
SKINNY_RANK = 8
"""LoRA's usual rank: the shape class that runs far from the peak."""
CPU_STREAM_BYTES, CUDA_STREAM_BYTES = 64 * 2**20, 1024 * 2**20
"""Larger than the last-level cache, so that the stream measures memory."""
CPU_RESIDENT_BYTES, CUDA_RESIDENT_BYTES = 2**20, 16 * 2**20
"""What stays in cache between two operators of a small model."""


@dataclass(frozen=True)
class RatePoint:
    """One measured point of the grid.

    Attributes:
        key: ``"<data type>"``, ``"<data type>/skinny"``, ``"memory"``, ``"cache"``, ``"host_to_device"`` or
            ``"launch"``.
        label: Shape in words.
        work: Floating-point operations or bytes of one call; 1 for a launch.
        timing: Seconds per call.
    """

    key: str
    label: str
    work: float
    timing: Timing

    @property
    def rate(self) -> float:
        """FLOP/s or bytes/s."""
        return self.work / self.timing.median_s


def measure_rates(device: str, dtypes: tuple[str, ...], *, budget_s: float) -> Iterator[RatePoint]:
    """Measure the grid, one point at a time, so that an interruption keeps what was done.

    Args:
        device: ``"cpu"`` or ``"cuda:0"``.
        dtypes: Data types that were tried before and work.
        budget_s: Wall clock for the whole grid, shared equally by its points.
    """
    import torch

    sync = torch.cuda.synchronize if device.startswith("cuda") else None
    points = list(_grid(device, dtypes))
    for key, label, work, make in points:
        with torch.inference_mode():
            yield RatePoint(key, label, work, time_call(make(), budget_s=budget_s / len(points), synchronize=sync))


def measure_storage(folder: Path) -> RatePoint:
    """Writing a file and flushing it to the disk, as saving a model does; three times, because disks vary.

    Args:
        folder: On the disk in question.
    """
    data = b"\0" * STORAGE_BYTES

    def write() -> None:
        with tempfile.TemporaryFile(dir=folder) as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())

    timing = time_call(write, budget_s=0.0, min_repeats=2)
    return RatePoint("storage", f"write and flush {STORAGE_BYTES // 2**20} MiB", float(STORAGE_BYTES), timing)


Maker = Callable[[], Callable[[], object]]


def _grid(device: str, dtypes: tuple[str, ...]) -> Iterator[tuple[str, str, float, Maker]]:
    import torch

    cuda = device.startswith("cuda")
    rows = CUDA_ROWS if cuda else CPU_ROWS
    for name in dtypes:
        dtype = getattr(torch, name)
        for n in CUDA_SQUARES if cuda else CPU_SQUARES:
            yield _product(name, n, n, n, dtype, device)
        for width_in, width_out in LAYER_WIDTHS:
            yield _product(name, rows, width_in, width_out, dtype, device)
        yield _product(f"{name}/skinny", rows, 768, SKINNY_RANK, dtype, device)
        yield _product(f"{name}/skinny", rows, SKINNY_RANK, 768, dtype, device)
    yield _stream("memory", CUDA_STREAM_BYTES if cuda else CPU_STREAM_BYTES, device)
    yield _stream("cache", CUDA_RESIDENT_BYTES if cuda else CPU_RESIDENT_BYTES, device)
    yield "launch", "add of one element", 1.0, lambda: _adder(torch.zeros(1, device=device))
    if cuda:
        yield "host_to_device", "64 MiB from pinned memory", float(2**26), lambda: _upload(device)


def _product(key: str, m: int, k: int, n: int, dtype: torch.dtype, device: str) -> tuple[str, str, float, Maker]:
    def make() -> Callable[[], object]:
        import torch

        left, right = torch.rand(m, k, device=device).to(dtype), torch.rand(k, n, device=device).to(dtype)
        out = torch.empty(m, n, device=device, dtype=dtype)
        return lambda: torch.mm(left, right, out=out)

    return key, f"{m} x {k} x {n}", 2.0 * m * k * n, make


def _stream(key: str, size: int, device: str) -> tuple[str, str, float, Maker]:
    """``out = x + 1``: reads and writes ``size`` bytes each."""

    def make() -> Callable[[], object]:
        import torch

        x = torch.zeros(size // 4, device=device)
        out = torch.empty_like(x)
        return lambda: torch.add(x, 1.0, out=out)

    return key, f"read and write {size // 2**20} MiB", 2.0 * size, make


def _adder(x: torch.Tensor) -> Callable[[], object]:
    return lambda: x.add_(1.0)


def _upload(device: str) -> Callable[[], object]:
    import torch

    source = torch.empty(2**26, dtype=torch.uint8, pin_memory=True)
    target = torch.empty(2**26, dtype=torch.uint8, device=device)
    return lambda: target.copy_(source, non_blocking=True)
