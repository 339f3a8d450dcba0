"""NVIDIA cards, and what torch's ROCm build calls ``cuda``, too."""

from __future__ import annotations

import importlib.util
import re
import threading
from pathlib import Path
from types import TracebackType
from typing import Any

from advisor.core.device import DeviceProfile
from advisor.core.errors import DeviceError
from advisor.core.plan import ExecutionPlan
from advisor.hardware.backends.base import (
    Backend,
    BeforeProbe,
    Emit,
    Findings,
    Identity,
    Mark,
    MemoryTraits,
    OverheadTraits,
    Probing,
    ProfileOf,
    Refusal,
    Runtime,
    SetupTraits,
)
from advisor.hardware.benchmarks import Figure, Scale
from advisor.hardware.device_info import gpu_facts, slug
from advisor.hardware.energy import Counter, gpu_counter
from advisor.hardware.host import Finding, Host
from advisor.hardware.timing import SamplingPolicy

AMPERE = (8, 0)
"""Compute capability that introduced TensorFloat-32 and bfloat16 (NVIDIA A100 whitepaper)."""
LEAST_TRITON_CAPABILITY = (7, 0)
"""Triton, which compiles for GPUs, needs compute capability 7.0 (``torch._inductor.scheduler``: "Found ... which is too
old to be supported by the triton GPU compiler")."""
WORKSPACE_BYTES, HOPPER_WORKSPACE_BYTES = int(8.125 * 2**20), 32 * 2**20
WORKSPACE_SOURCE = (
    "torch aten/src/ATen/cuda/CublasHandlePool.cpp: :4096:2:16:8 KiB = 8.125 MiB a handle, 32 "
    "MiB from compute capability 9.0 on"
)
USUAL_CONTEXT_BYTES = 500 * 2**20
"""Of a card that no profile describes: process memory beyond the reserve in public out-of-memory messages lies between
300 and 750 MiB."""
DRIVER_FILE = Path("/proc/driver/nvidia/version")
"""The kernel module's own word; readable where NVML is missing or forbidden."""
SAMPLE_S = 5e-3
"""Shortest sample: launching its first kernel and waiting for its last one take some 10 to 20 us, which must stay below
half a percent."""
WATCHED_EVERY_S = 0.2


class DriverMemoryWatch:
    """Samples what the driver says this process holds on its card."""

    def __init__(self) -> None:
        self.first_bytes: int | None = None
        self.peak_bytes: int | None = None
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> DriverMemoryWatch:
        import torch

        torch.zeros(1, device="cuda")  # makes the context, so that the first figure is the context
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        self._thread.join()

    def _sample(self) -> None:
        """Until told to stop, and once more then: the allocator gives little back, so the last one is near the peak."""
        from advisor.hardware.nvml import NvmlUnavailable, process_memory_bytes

        last = False
        while not last:
            last = self._done.wait(WATCHED_EVERY_S)
            try:
                held_bytes = process_memory_bytes()
            except NvmlUnavailable:
                return
            self.first_bytes = self.first_bytes or held_bytes
            self.peak_bytes = max(self.peak_bytes or 0, held_bytes)


class CudaRuntime(Runtime):
    """``torch.cuda`` of the current device."""

    def count(self) -> int:
        import torch

        return torch.cuda.device_count() if torch.cuda.is_available() else 0

    def synchronize(self) -> None:
        import torch

        torch.cuda.synchronize()

    def release_cached(self) -> None:
        import torch

        torch.cuda.empty_cache()

    def reset_peaks(self) -> None:
        import torch

        torch.cuda.reset_peak_memory_stats()

    def peaks(self) -> tuple[int | None, int | None]:
        import torch

        return torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved()

    def memory_watch(self) -> DriverMemoryWatch:
        return DriverMemoryWatch()

    def energy_counter(self) -> Counter:
        import torch

        return gpu_counter(str(torch.cuda.get_device_properties(torch.cuda.current_device()).uuid))

    def mark(self) -> Mark | None:
        import torch

        mark = torch.cuda.Event(enable_timing=True)
        mark.record()
        return mark

    def is_lost(self) -> bool:
        """An assertion or an illegal address in a kernel: CUDA answers nothing any more."""
        import torch

        try:
            torch.cuda.synchronize()
        except RuntimeError:
            return True
        return False

    def compile_refusal(self) -> Refusal | None:
        import torch

        way_out = "leave torch_compile off"
        if importlib.util.find_spec("triton") is None:
            return "torch.compile builds its GPU kernels with triton, which is not installed", way_out
        if torch.cuda.is_available() and (found := torch.cuda.get_device_capability()) < LEAST_TRITON_CAPABILITY:
            needed, has = ("{}.{}".format(*pair) for pair in (LEAST_TRITON_CAPABILITY, found))
            return f"torch.compile needs compute capability {needed}, but the device has {has}", way_out
        return None


def kernel_driver(path: Path = DRIVER_FILE) -> str:
    """Version of the loaded NVIDIA driver, as its kernel module tells it; empty where there is none."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    found = re.search(r"Kernel Module.*?\s(\d+\.\d+(?:\.\d+)*)\s", text)
    return found[1] if found else ""


class CudaProbing(Probing):
    """The driver's view before and under load, copies to and from the host, kernels without the host."""

    scale = Scale(
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
        nf4_shape=(4096, 4096),
        nf4_dtype="float16",
        warm_up_s=0.7,
    )
    tail_s = 14.0
    tries_compiling = True

    def look_before(self) -> BeforeProbe:
        from advisor.hardware.context import idle_gpus

        return BeforeProbe(*idle_gpus())

    def describe(
        self, device: str, before: BeforeProbe, emit: Emit, *, known: bool
    ) -> tuple[tuple[int, int] | None, bool]:
        from advisor.hardware.gpu_probe import describe

        capability = describe(device, before.states, before.refused, emit)
        return capability, capability is not None

    def sampling(self, host: Host, *, quick: bool) -> SamplingPolicy:
        """Longer samples; a quota slows the host and not the card."""
        return SamplingPolicy(SamplingPolicy.usual(quick=quick).longest_s, SAMPLE_S)

    def own_figures(self, device: str) -> list[Figure]:
        from advisor.hardware.overhead import kernel_figure
        from advisor.hardware.traffic import copy_figures

        return [kernel_figure(device), *copy_figures(device, self.scale)]

    def emulated(self, device: str, dtype: str) -> str:
        import torch

        if dtype == "bfloat16" and torch.cuda.get_device_capability(device) < AMPERE:
            return "works only emulated below compute capability 8.0"
        return ""

    def chosen_kernel(self, device: str, dtype: str, emit: Emit) -> str:
        """Of batches without a mask; emits the choice for both."""
        from advisor.hardware.attention import CHOICE, MASKED_CHOICE, chosen_kernel

        chosen = ""
        for name, masked in ((MASKED_CHOICE, True), (CHOICE, False)):
            chosen = chosen_kernel(device, dtype, masked=masked)
            reason = f"torch's own choice in {dtype} without dropout" if chosen else "torch does not say"
            emit(kind="fact", name=name, value=chosen or "unknown", reason=reason)
        return chosen

    def look_back(self, device: str, before: BeforeProbe, dtype: str, emit: Emit) -> None:
        from advisor.hardware.gpu_probe import look_back

        look_back(device, before.states, dtype, self.scale.squares[len(self.scale.squares) // 2], emit)

    def identity(self, findings: Findings, host: Host, profile_of: ProfileOf) -> Identity:
        if "card" not in findings:
            raise DeviceError("the probe must describe the card, but it ended before that", fix="run it again")
        found, states = findings["card"][0], list(findings.get("gpu", []))
        capability = (int(found["capability"][0]), int(found["capability"][1]))
        context = list(findings.get("context", [])) or [_usual_context(found["name"], profile_of)]
        available, available_source = _available(found, states, context[-1]["bytes"])
        fields = {
            "id": slug(found["name"]),
            "name": found["name"],
            "memory_bytes": found["total_bytes"],
            "available_bytes": available,
            "compute_capability": capability,
            "workspace_bytes": HOPPER_WORKSPACE_BYTES if capability >= (9, 0) else WORKSPACE_BYTES,
            "context_bytes": context[-1]["bytes"],
            "context_interval_bytes": context[-1].get("interval"),
        }
        facts = {
            "cuda": str(Finding(str(found["cuda_version"]), "the CUDA version torch was built with")),
            "multi_processors": str(Finding(str(found["multi_processors"]), "torch.cuda.get_device_properties")),
            **gpu_facts(states),
        }
        sources = {
            "memory_bytes": "cudaMemGetInfo",
            "available_bytes": available_source,
            "compute_capability": "torch.cuda.get_device_properties",
            "workspace_bytes": WORKSPACE_SOURCE,
            "context_bytes": context[-1]["reason"],
        }
        return Identity(fields, sources, facts)


def _available(found: dict[str, Any], states: list[dict[str, Any]], context_bytes: int) -> tuple[int, str]:
    """What a new process can have, its own context included: free bytes from before this one made a context."""
    for state in states:
        free = state["state"].get("free_bytes")
        if state["moment"] == "idle" and free is not None:
            return min(free, found["total_bytes"]), "NVML, before this process had a context"
    free = min(found["free_bytes"] + context_bytes, found["total_bytes"])
    return free, "cudaMemGetInfo after this process made its context, plus that context"


def _usual_context(name: str, profile_of: ProfileOf) -> dict[str, Any]:
    """The context of a card that its driver does not show: its data sheet's, else a usual one."""
    try:
        known = profile_of(name)
    except DeviceError:
        reason = f"unknown: the driver shows no process memory; {USUAL_CONTEXT_BYTES >> 20} MiB are usual"
        return {"bytes": USUAL_CONTEXT_BYTES, "reason": reason}
    reason = f"the driver shows no process memory; from the profile {known.id}: {known.sources['context_bytes']}"
    return {"bytes": known.context_bytes, "reason": reason, "interval": known.context_interval_bytes}


class CudaBackend(Backend):
    """A card with memory of its own: kernels are queued, torch's caching allocator hands the memory out."""

    name = "cuda"
    title = "a CUDA device"
    torch_device = "cuda"
    setups = SetupTraits(
        half_precision=True,
        compared=False,
        num_threads=False,
        eight_bit_optimizers=True,
        attention=("flash_attention_2", "sdpa", "eager"),
    )
    # ``kMinBlockSize`` of c10/cuda/CUDACachingAllocator.cpp.
    memory = MemoryTraits(allocator="caching", round_bytes=512, counted=True, quantizes_on_device=True)
    # Host time: fitted to the short steps of three public A100 machines, over their traced operators: 22 us (Qwen's
    # profile, LoRA), 28 us (LLMFineTuningBench, the PCIe machine), 51 us (the same, SXM machines in containers); the
    # middle one, rounded. Overlap: one stretch of a step waits for the host and another for the device; fitted together
    # with the efficiencies of a datasheet: 3.9. Packing: weights of 16 bits are read at 2 GB/s, the kernel takes less.
    overhead = OverheadTraits(
        host_s_per_operator=25e-6, overlap_power=4, warm_up_s=1.0, packed_item_bytes=2, packed_bytes_per_s=2e9
    )
    traced_as = "cuda"
    runtime = CudaRuntime()
    probing = CudaProbing()

    def has_tf32(self, device: DeviceProfile) -> bool:
        return (device.compute_capability or (0, 0)) >= AMPERE

    def driver_version(self) -> str:
        return kernel_driver()

    def refusals(self, execution: ExecutionPlan, *, here: bool) -> list[Refusal]:
        if not (execution.tf32 and here):
            return []
        import torch

        if not torch.cuda.is_available() or (capability := torch.cuda.get_device_capability()) >= AMPERE:
            return []
        return [(f"tf32 needs compute capability 8.0, but the device has {capability}", "leave tf32 off")]
