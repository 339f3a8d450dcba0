"""The machine's own processor."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import ClassVar

from advisor.core.plan import ExecutionPlan
from advisor.core.units import counted
from advisor.hardware.backends.base import (
    Backend,
    BeforeProbe,
    Emit,
    Findings,
    Identity,
    MemoryTraits,
    MemoryWatch,
    OverheadTraits,
    Probing,
    ProfileOf,
    Refusal,
    Runtime,
    SetupTraits,
    slug,
)
from advisor.hardware.benchmarks import Figure, Scale
from advisor.hardware.energy import Counter, RaplCounter
from advisor.hardware.host import Host
from advisor.hardware.host_process import (
    import_training_libraries,
    keep_freed_memory,
    peak_resident_bytes,
    resident_bytes,
)
from advisor.hardware.timing import CFS_PERIOD_S, SamplingPolicy

COMPILERS = ("g++", "clang++", "c++")
"""What inductor builds CPU kernels with (``torch._inductor.config.cpp.cxx``), besides the one that ``CXX`` names."""


class CpuRuntime(Runtime):
    """torch's own threads; there is nothing to wait for, and no allocator that counts."""

    def count(self) -> int:
        return 1

    def synchronize(self) -> None:
        pass

    @contextmanager
    def memory_watch(self) -> Iterator[MemoryWatch]:
        """The process's resident set, whose peak the kernel keeps."""
        watch = MemoryWatch(resident_bytes())
        try:
            yield watch
        finally:
            watch.peak_bytes = peak_resident_bytes()

    def energy_counter(self) -> Counter:
        return RaplCounter()

    def prepare_process(self, num_threads: int | None, *, expandable_segments: bool = False) -> None:
        super().prepare_process(num_threads)
        keep_freed_memory()

    def compile_refusal(self) -> Refusal | None:
        if sys.platform == "win32":
            reason = "torch.compile's kernels need a toolchain that is not expected on Windows"
            return reason, "leave torch_compile off"
        if any(map(shutil.which, filter(None, (os.environ.get("CXX"), *COMPILERS)))):
            return None
        reason = f"torch.compile builds its CPU kernels with a C++ compiler, but found none of {', '.join(COMPILERS)}"
        return reason, "install one, or leave torch_compile off"


class CpuProbing(Probing):
    """Cores, threads and caches."""

    scale = Scale(
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
        nf4_shape=(1024, 1024),
        nf4_dtype="float32",
        warm_up_s=0.2,
    )
    tail_s = 5.0
    absent_kernels: ClassVar[Mapping[str, str]] = {
        "efficient": "torch has no memory-efficient kernel on CPU",
        "cudnn": "cuDNN is a library for GPUs",
    }

    def describe(
        self, device: str, before: BeforeProbe, emit: Emit, *, known: bool
    ) -> tuple[tuple[int, int] | None, bool]:
        """What the training libraries hold of the process's memory is all that a CPU does not say of itself."""
        if not known:
            emit(kind="importing")
            held_bytes, reason = import_training_libraries()
            emit(kind="context", bytes=held_bytes, reason=reason)
        return None, True

    def sampling(self, host: Host, *, quick: bool) -> SamplingPolicy:
        """Short samples, or whole refill periods where a quota stops the process in between."""
        usual = SamplingPolicy.usual(quick=quick)
        if host.throttled:
            return SamplingPolicy(max(usual.longest_s, 3 * CFS_PERIOD_S), CFS_PERIOD_S, 3)
        return usual

    def own_figures(self, device: str) -> list[Figure]:
        from advisor.hardware.traffic import first_touch_figure

        return [first_touch_figure()]

    def identity(self, findings: Findings, host: Host, profile_of: ProfileOf) -> Identity:
        context = findings.get("context", [{"bytes": 0, "reason": "unknown: not measured"}])[-1]
        fields = {
            "id": cpu_id(host),
            "name": f"{host.model_name}, {counted(host.cores, 'core')}",
            "memory_bytes": host.memory_bytes,
            "available_bytes": host.available_bytes,
            "workspace_bytes": 0,
            "context_bytes": context["bytes"],
        }
        sources = {
            "memory_bytes": host.reasons["memory_bytes"],
            "available_bytes": "free or reclaimable within that",
            "workspace_bytes": "no cuBLAS on CPU",
            "context_bytes": context["reason"],
        }
        return Identity(fields, sources)


def cpu_id(host: Host) -> str:
    """The profile id of a host."""
    return f"cpu-{slug(host.model_name) or 'unknown'}-{host.cores}c"


class CpuBackend(Backend):
    """The device is the process: its threads compute, its resident set is the memory that counts."""

    name = "cpu"
    title = "a CPU"
    torch_device = "cpu"
    is_host = True
    setups = SetupTraits(half_precision=False, compared=True, num_threads=True, eight_bit_optimizers=False)
    memory = MemoryTraits(allocator="heap", round_bytes=1, counted=False, quantizes_on_device=False)
    # Host time: LoRA steps of MiniLM with 16 tokens took 49 ms of CPU time for 662 operators on one busy server core; a
    # third of that is reading the weights and launching, which are counted apart. Packing: 10.6M weights of MiniLM in
    # 0.57 s, 106M of SmolLM2 in 4.1 s (bitsandbytes 0.50.2), from float32. Warm-up is apart from fresh memory.
    overhead = OverheadTraits(
        host_s_per_operator=25e-6, overlap_power=1, warm_up_s=0.15, packed_item_bytes=4, packed_bytes_per_s=1e8
    )
    traced_as = "cpu"
    runtime = CpuRuntime()
    probing = CpuProbing()

    def refusals(self, execution: ExecutionPlan, *, here: bool) -> list[Refusal]:
        found = []
        if execution.optim.startswith("paged"):
            rule = f"{execution.optim} pages its states out of a GPU, but the device is a CPU"
            found.append((rule, "use adamw_bnb_8bit or adamw_torch_fused"))
        if execution.amp == "fp16":
            found.append(("fp16 mixed precision needs a GPU, but the device is a CPU", "use amp bf16 or none"))
        if execution.tf32:
            found.append(("tf32 is a mode of NVIDIA's tensor cores, but the device is a CPU", "leave tf32 off"))
        return found
