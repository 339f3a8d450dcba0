"""What a probe can time: figures, each built on demand so that only one occupies the device at a time."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

Table = Literal["flops_per_s", "bytes_per_s", "overhead_s"]
"""The table of the device profile that a figure belongs to."""


@dataclass(frozen=True)
class Workload:
    """Something to call repeatedly, on tensors that it holds.

    Attributes:
        amount: FLOPs, bytes or operators of one call.
        label: The shapes in words.
        point: What distinguishes it from the other points of its figure's key; empty for the only one.
        call: Does the work once.
        context: Entered around all calls together.
    """

    amount: float
    label: str
    point: str
    call: Callable[[], object]
    context: contextlib.AbstractContextManager[object] = dataclasses.field(default_factory=contextlib.nullcontext)


@dataclass(frozen=True)
class Figure:
    """One figure of the probe.

    Attributes:
        table: Where its rate is stored.
        key: Under which key; several figures may share one as its points.
        name: The figure in words, before anything is built.
        build: Makes the work. Its argument divides the intended size; 1 asks for all of it, more for what still fits
            on a device that others fill.
        quick: Whether a quick probe measures it.
        grad: Whether autograd records the calls.
        tf32: Whether float32 products may be rounded to TF32.
    """

    table: Table
    key: str
    name: str
    build: Callable[[int], Workload]
    quick: bool = False
    grad: bool = False
    tf32: bool = False


@dataclass(frozen=True)
class Scale:
    """Sizes that suit a kind of device.

    Attributes:
        squares: Sides of square products.
        rows: Tokens of a micro-batch, the long side of layer products.
        layers: Input and output widths of linear layers.
        skinny_widths: Widths that low-rank products start from or end at.
        lengths: Sequence lengths of attention; the batch is as large as ``rows`` allows.
        heads, head_width: Of attention.
        softmax_width: Row length of the softmax.
        norm_width: Row length of the layer norm.
        stream_bytes: Larger than the last cache level, so that memory is measured.
        resident_bytes: What stays in cache between two operators of a small model.
        traffic_bytes: Sizes of a tensor for each operator class, smallest first.
        embedding_shape: Rows and width of the table.
        optimizer_shapes: Tensors and elements in each: a LoRA-like set, and a fully trained one.
        copy_bytes: Of one copy between host and device.
        warm_up_s: Until clocks have risen.
    """

    squares: tuple[int, ...]
    rows: int
    layers: tuple[tuple[int, int], ...]
    skinny_widths: tuple[int, ...]
    lengths: tuple[int, ...]
    heads: int
    head_width: int
    softmax_width: int
    norm_width: int
    stream_bytes: int
    resident_bytes: int
    traffic_bytes: tuple[int, ...]
    embedding_shape: tuple[int, int]
    optimizer_shapes: tuple[tuple[int, int], ...]
    copy_bytes: int
    warm_up_s: float


CPU_SCALE = Scale(
    squares=(256, 512, 1024),
    rows=1024,
    layers=((384, 1536), (768, 3072)),  # feed-forward layers of MiniLM-L6 and BERT-base
    skinny_widths=(768,),
    lengths=(64, 128, 512),
    heads=12,
    head_width=32,
    softmax_width=128,
    norm_width=384,
    stream_bytes=64 * 2**20,
    resident_bytes=2**20,
    traffic_bytes=(64 * 2**10, 2**20, 16 * 2**20),
    embedding_shape=(30_522, 384),
    optimizer_shapes=((96, 8 * 768), (16, 2**18)),
    copy_bytes=2**26,
    warm_up_s=0.2,
)
CUDA_SCALE = Scale(
    squares=(1024, 2048, 4096, 8192),  # the largest reach the peak of any card sold until 2026
    rows=8192,
    layers=((768, 3072), (4096, 4096), (4096, 14_336)),  # BERT-base; attention and feed-forward of an 8B decoder
    skinny_widths=(768, 4096),
    lengths=(128, 512, 2048),
    heads=16,
    head_width=64,
    softmax_width=512,
    norm_width=4096,
    stream_bytes=2**30,
    resident_bytes=8 * 2**20,
    traffic_bytes=(256 * 2**10, 8 * 2**20, 256 * 2**20),
    embedding_shape=(32_000, 1024),
    optimizer_shapes=((448, 8 * 4096), (16, 2**23)),
    copy_bytes=2**28,
    warm_up_s=0.7,
)
LOW_RANK, HIGH_RANK = 8, 64
"""LoRA's usual rank, the shape class that runs far from the peak, and one where it nears it."""


def scale_of(device: str) -> Scale:
    """Sizes for ``"cpu"`` or ``"cuda:N"``."""
    return CUDA_SCALE if device.startswith("cuda") else CPU_SCALE


def shrunk(size: int, divisor: int, least: int = 1) -> int:
    """A size divided, but not below ``least``."""
    return max(least, size // divisor)
