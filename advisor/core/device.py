"""What is known of a device: its capacity, its kernels, its rates, each number with its source."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

PARTIAL_FACT = "partial"
"""The fact that says why a profile is incomplete; complete ones do not have it."""
SHARED_MEMORY_FACT = "shared memory"
"""The fact of a module whose GPU and processor share the memory: it is no card for another machine."""
LOAD_FACT = "load"
"""The fact that says how many figures were taken while other programs used the processor; few or none: no such fact."""


@dataclass(frozen=True)
class Rate:
    """One throughput figure with where it comes from.

    Attributes:
        value: FLOP/s, bytes/s or seconds (the table it is stored in says which).
        source: How it was probed, or the datasheet that states it.
        spread: Relative half spread of the repeats (0 for a datasheet).
    """

    value: float
    source: str
    spread: float = 0.0


@dataclass(frozen=True)
class DeviceProfile:
    """One device, as probed or from its datasheet; one JSON file each under ``profiles/``.

    Attributes:
        id: Lower-case product name (``"t4"``, ``"a100-sxm4-80gb"``), or ``"cpu-…"`` for a probed host.
        name: Product name.
        type: Name of the back end (``hardware.backends``).
        memory_bytes: Capacity that plans may use at most (CPU: physical or cgroup limit).
        available_bytes: Free at probe time; ``None`` in a datasheet profile.
        compute_capability: CUDA ``(major, minor)``; ``None`` on CPU.
        dtypes: Data types that train there, for example ``("float32", "bfloat16")``.
        attention_kernels: Kernels that work there: ``"math"``, ``"efficient"``, ``"flash"``, ``"cudnn"``.
        context_bytes: Memory that a process holds besides tensors (CUDA context; CPU: resident set after imports).
        context_interval_bytes: Least and most that driver, CUDA version and loaded kernels make of ``context_bytes``;
            ``None`` where it was measured on the machine itself.
        workspace_bytes: cuBLAS workspace of one handle.
        flops_per_s: Arithmetic rates; a probe's keys are described below.
        bytes_per_s: Bandwidths by class; at least ``"memory"``, CUDA also ``"host_to_device"``.
        launch_s: Cost of launching one operator.
        power_limit_watts: What the card may draw for long, for example its TDP; ``None`` where it is not known.
        overhead_s: Seconds that do not depend on sizes; a probe's keys are described below.
        num_threads: Intra-op threads with which training operators were fastest when probed; ``None`` where it was not
            measured (a GPU, a datasheet).
        basis: ``"measured"``, ``"datasheet"``, or ``"fitted"``: a datasheet whose rates measured steps have corrected.
        sources: Where each number comes from, by field name.
        facts: What else the probe found (driver, cores, instruction sets, limits), each as value and reason.
        warnings: Why figures may not be believed, for example a noisy machine.
        multiprocessors: Of a GPU: kernels that add up over rows take a buffer that grows with them.

    Keys of ``flops_per_s`` (a datasheet has only the data types):

    * ``"<data type>"``: matrix products (``"float32"``, ``"tf32"``, ``"bfloat16"``, ``"float16"``);
    * ``"<data type>/skinny"``: with a side of 8, as LoRA makes them; ``"<data type>/rank64"``: with a side of 64;
    * ``"<data type>/bmm"``: batched products of attention without a fused kernel;
    * ``"attention/<kernel>"``, ``"attention_backward/<kernel>"``: forward and backward of one attention kernel in the
      data type that its source names, FLOPs counted as ``torch.utils.flop_counter`` does; ``"…/float32"`` in float32,
      where a datasheet was fitted to real steps.

    Keys of ``bytes_per_s`` (bytes read plus bytes written):

    * ``"memory"``, ``"cache"``: one elementwise operator far beyond the last cache level, and inside it;
    * ``"host_to_device"``, ``"device_to_host"`` (pinned host memory), ``"host_to_device_pageable"``,
      ``"device_to_host_pageable"``, ``"storage"`` (write and flush), ``"storage_read"``: one direction, counted once;
    * ``"<operator class>"``, the classes of ``advisor.tracing.ops.op_class``: ``"elementwise"``,
      ``"transcendental"`` (GELU), ``"norm"`` (layer norm), ``"softmax"``, ``"rng"`` (dropout), ``"embedding"``,
      ``"copy"``, ``"reduction"`` in float32; ``"<operator class>/<data type>"`` in another one;
    * ``"optimizer_foreach"``, ``"optimizer_fused"``, ``"optimizer_8bit"``: AdamW steps over float32 parameters, counted
      as 28 bytes a parameter (read parameter, gradient and two states; write all but the gradient), 8-bit states as 16;
    * ``"quantization"``: NF4 weights unpacked;
    * ``"interconnect"``: to the other cards of the host, per direction (a datasheet's; NVLink, Infinity Fabric).

    Keys of ``overhead_s``: ``"operator"`` (dispatch of a tiny operator without autograd; the same as ``launch_s``),
    ``"operator_autograd"`` (per operator, forward and backward), ``"module"`` (an empty ``nn.Module`` call),
    ``"kernel"`` (CUDA: the shortest kernel on the device itself, from a replayed graph), ``"operator_in_step"`` (host
    time per operator of real steps, where a datasheet was fitted to some).

    Each of these is a summary; every measured point stands beside it under ``"<key>/<point>"``: ``MxKxN`` of a product,
    ``BxMxKxN`` of a batched one, the sequence length of attention, the bytes moved of an operator class, ``tensors x
    elements`` of an optimizer step. A summary of products and attention is the median over its points, one of an
    operator class its largest size, which streams from memory.
    """

    id: str
    name: str
    type: str
    memory_bytes: int
    available_bytes: int | None = None
    compute_capability: tuple[int, int] | None = None
    dtypes: tuple[str, ...] = ("float32",)
    attention_kernels: tuple[str, ...] = ("math",)
    context_bytes: int = 0
    context_interval_bytes: tuple[int, int] | None = None
    workspace_bytes: int = 0
    flops_per_s: dict[str, Rate] = field(default_factory=dict)
    bytes_per_s: dict[str, Rate] = field(default_factory=dict)
    launch_s: float = 0.0
    power_limit_watts: float | None = None
    overhead_s: dict[str, Rate] = field(default_factory=dict)
    num_threads: int | None = None
    basis: Literal["measured", "datasheet", "fitted"] = "datasheet"
    sources: dict[str, str] = field(default_factory=dict)
    facts: dict[str, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    multiprocessors: int | None = None
