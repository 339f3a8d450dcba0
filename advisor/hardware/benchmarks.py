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
        nf4_shape, nf4_dtype: Of weights that are turned into 4 bits.
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
    nf4_shape: tuple[int, int]
    nf4_dtype: str
    warm_up_s: float


LOW_RANK, HIGH_RANK = 8, 64
"""LoRA's usual rank, the shape class that runs far from the peak, and one where it nears it."""


def shrunk(size: int, divisor: int, least: int = 1) -> int:
    """A size divided, but not below ``least``."""
    return max(least, size // divisor)
