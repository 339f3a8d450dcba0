"""What is known of a device: its capacity, its kernels, its rates, each number with its source."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

DeviceType = Literal["cpu", "cuda"]


@dataclass(frozen=True)
class Rate:
    """One throughput figure with where it comes from.

    Attributes:
        value: FLOP/s or bytes/s (the key it is stored under says which).
        source: ``"probed"`` or the datasheet that states it.
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
        memory_bytes: Capacity that plans may use at most (CPU: physical or cgroup limit).
        available_bytes: Free at probe time; ``None`` in a datasheet profile.
        compute_capability: CUDA ``(major, minor)``; ``None`` on CPU.
        dtypes: Data types that train there, for example ``("float32", "bfloat16")``.
        attention_kernels: Kernels that work there: ``"math"``, ``"efficient"``, ``"flash"``.
        context_bytes: Memory that a process holds besides tensors (CUDA context; CPU: resident set after imports).
        context_interval_bytes: Least and most that driver, CUDA version and loaded kernels make of ``context_bytes``;
            ``None`` where it was measured on the machine itself.
        workspace_bytes: cuBLAS workspace of one handle.
        flops_per_s: Matrix rates by data type (``"float32"``, ``"tf32"``, ``"bfloat16"``, ``"float16"``).
        bytes_per_s: Memory bandwidth by class; at least ``"memory"``, CUDA also ``"host_to_device"``.
        launch_s: Cost of launching one operator.
        num_threads: Intra-op threads with which training operators were fastest when probed; ``None`` where it was not
            measured (a GPU, a datasheet).
        basis: ``"measured"`` or ``"datasheet"``.
        sources: Where each number comes from, by field name.
        facts: What else the probe found (driver, cores, instruction sets, limits), each as value and reason.
        warnings: Why figures may not be believed, for example a noisy machine.
    """

    id: str
    name: str
    type: DeviceType
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
    num_threads: int | None = None
    basis: Literal["measured", "datasheet"] = "datasheet"
    sources: dict[str, str] = field(default_factory=dict)
    facts: dict[str, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
