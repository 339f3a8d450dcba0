"""What a probe tries, asks and times on a CUDA device only."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import Any

from advisor.core.errors import DeviceError
from advisor.hardware.backends.base import BeforeProbe, Emit, Findings, Identity, Probing, ProfileOf, slug
from advisor.hardware.benchmarks import Figure, Scale
from advisor.hardware.host import Finding, Host
from advisor.hardware.nvml import NvmlUnavailable, all_gpu_states, gpu_state, nvml_library, process_memory_bytes
from advisor.hardware.timing import SamplingPolicy
from advisor.hardware.trials import first_line

AMPERE = (8, 0)
"""Compute capability that introduced TensorFloat-32 and bfloat16 (NVIDIA A100 whitepaper)."""
WORKSPACE_BYTES, HOPPER_WORKSPACE_BYTES = int(8.125 * 2**20), 32 * 2**20
WORKSPACE_SOURCE = (
    "torch aten/src/ATen/cuda/CublasHandlePool.cpp: :4096:2:16:8 KiB = 8.125 MiB a handle, 32 "
    "MiB from compute capability 9.0 on"
)
USUAL_CONTEXT_BYTES = 500 * 2**20
"""Of a card that no profile describes: process memory beyond the reserve in public out-of-memory messages lies between
300 and 750 MiB."""
SAMPLE_S = 5e-3
"""Shortest sample: launching its first kernel and waiting for its last one take some 10 to 20 us, which must stay below
half a percent."""
GPU_FACTS = (
    *("driver_version", "sm_clock_hz", "max_sm_clock_hz", "memory_clock_hz", "max_memory_clock_hz", "power_w"),
    *("power_limit_w", "temperature_c", "slowdowns", "mig", "ecc", "pcie", "max_pcie", "total_bytes", "free_bytes"),
)
"""Of a GPU's state, what a profile says."""
CALLED = {"driver_version": "driver", "total_bytes": "nvml_total_bytes", "free_bytes": "nvml_free_bytes"}
"""Where a profile's word for it is another."""
LOADED_FACTS = ("sm_clock_hz", "memory_clock_hz", "power_w", "temperature_c", "slowdowns", "pcie")
"""What a GPU's work changes."""
MOMENTS = {
    "idle": "before CUDA was started",
    "started": "after CUDA was started",
    "loaded": "while multiplying matrices",
}
READING_S, MOST_QUEUED = 0.1, 1000
"""How long it must stay busy while clocks and power are read: some fifteen questions of about a millisecond, with room.
Products queued for it at most: the driver makes the host wait behind some 1,024 launches."""


class CudaProbing(Probing):
    """The driver's view before and under load, copies to and from the host, kernels without the host.

    Attributes:
        load_s: How long a GPU is kept busy before its clocks and power are read: several times what they need to rise.
    """

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
    load_s = 0.3
    tries_compiling = True

    def look_before(self) -> BeforeProbe:
        try:
            return BeforeProbe(all_gpu_states())
        except NvmlUnavailable as failure:
            return BeforeProbe(refused=failure.message)

    def describe(
        self, device: str, before: BeforeProbe, emit: Emit, *, known: bool
    ) -> tuple[tuple[int, int] | None, bool]:
        """What torch and the driver say; without room for a context the probe cannot go on."""
        import torch

        try:
            torch.cuda.set_device(device)
            card = _card(device)
        except RuntimeError as failure:
            emit(
                kind="error",
                message=f"the device must have room for a CUDA context, but it said: {first_line(failure)}",
                fix="end other processes on it (nvidia-smi lists them), or probe another device",
            )
            return None, False
        emit(kind="card", **card)
        moment, state = "idle", before.states.get(card["uuid"].removeprefix("GPU-"))
        try:
            if state is None:  # a part of a GPU is not in the list of GPUs: asked for after CUDA has started
                moment, state = "started", gpu_state(card["uuid"])
            emit(kind="gpu", moment=moment, state=state)
        except NvmlUnavailable as failure:
            emit(kind="fact", name="nvml", value="no", reason=before.refused or failure.message)
        return (card["capability"][0], card["capability"][1]), True

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
        import torch

        uuid = str(getattr(torch.cuda.get_device_properties(device), "uuid", ""))
        try:
            emit(kind="gpu", moment="loaded", state=self.loaded_state(device, uuid, dtype))
        except NvmlUnavailable:
            pass  # said already when it was asked the first time
        except RuntimeError as failure:
            emit(kind="fact", name="clocks under load", value="unknown", reason=first_line(failure))
        try:
            found = cuda_context(device, uuid, before.states.get(uuid.removeprefix("GPU-")))
        except RuntimeError as failure:
            emit(kind="fact", name="context", value="unknown", reason=first_line(failure))
            return
        if found is not None:
            emit(kind="context", bytes=found[0], reason=found[1])

    def loaded_state(self, device: str, uuid: str, dtype: str) -> dict[str, Any]:
        """The GPU's state while it multiplies matrices; clocks and power of an idle one say nothing.

        Raises:
            NvmlUnavailable: NVML cannot be used.
            RuntimeError: the device is too full for the product.
        """
        import torch

        side = self.scale.squares[len(self.scale.squares) // 2]
        with nvml_library():  # started beforehand: that takes longer than all the questions
            left = torch.randn(side, side, device=device, dtype=getattr(torch, dtype))
            out = torch.empty_like(left)
            begin, calls, spent_s = time.monotonic(), 0, 0.0
            while not calls or spent_s < self.load_s:
                for _ in range(10):
                    torch.mm(left, left, out=out)
                torch.cuda.synchronize()
                calls, spent_s = calls + 10, time.monotonic() - begin
            for _ in range(min(MOST_QUEUED, math.ceil(READING_S * calls / max(spent_s, 1e-9)))):
                torch.mm(left, left, out=out)
            try:
                return gpu_state(uuid)  # the queue is still being worked off
            finally:
                torch.cuda.synchronize()

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
            "multiprocessors": int(found["multi_processors"]),
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
            "multiprocessors": "torch.cuda.get_device_properties",
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


def cuda_context(device: str, uuid: str, idle: Mapping[str, Any] | None) -> tuple[int, str] | None:
    """Context and loaded kernels: what the driver counts beyond the allocator's reserve, after kernels ran.

    Args:
        device: ``"cuda:N"``, already used.
        uuid: Of that device.
        idle: Its state before this process touched CUDA.

    Returns:
        Bytes and how they were found; ``None`` when the driver shows neither processes nor totals.
    """
    import torch

    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    reserved = torch.cuda.memory_reserved(device)
    try:
        held = process_memory_bytes(uuid=uuid)
    except NvmlUnavailable:
        grown = _growth(uuid, idle)
        if grown is None or grown <= reserved:
            return None
        return grown - reserved, "growth of the GPU's used memory (NVML) since before CUDA started, minus the reserve"
    return held - reserved, "NVML's figure of a process after all kernels ran, minus the allocator's reserve"


def _growth(uuid: str, idle: Mapping[str, Any] | None) -> int | None:
    try:
        before, now = (idle or {}).get("free_bytes"), gpu_state(uuid)["free_bytes"]
    except NvmlUnavailable:
        return None
    return None if before is None or now is None else before - now


def _card(device: str) -> dict[str, Any]:
    """What torch says about a CUDA device; starts the context."""
    import torch

    properties = torch.cuda.get_device_properties(device)
    torch.zeros(1, device=device)
    free, total = torch.cuda.mem_get_info(device)
    return {
        "name": properties.name,
        "capability": [properties.major, properties.minor],
        "total_bytes": total,
        "free_bytes": free,
        "uuid": str(getattr(properties, "uuid", "")),
        "multi_processors": properties.multi_processor_count,
        "cuda_version": torch.version.cuda,
    }


def gpu_facts(states: list[dict[str, Any]]) -> dict[str, str]:
    """What NVML said before the probe and under load, of ``gpu`` findings; the idle (or first) one comes first."""
    facts: dict[str, str] = {}
    for found in states:
        state, loaded, source = found["state"], found["moment"] == "loaded", f"NVML, {MOMENTS[found['moment']]}"
        refused = state.get("refused") or {}
        for name in LOADED_FACTS if loaded else GPU_FACTS:
            key = f"{name} under load" if loaded else CALLED.get(name, name)
            facts[key] = str(_finding(state.get(name), refused.get(name), source))
        if not loaded:
            facts["processes_bytes"] = str(_others(state, refused))
    return facts


def _finding(value: Any, refused: str | None, source: str) -> Finding:
    if value is None:
        return Finding("unknown", refused or "NVML did not say")
    text = f"{value:.4g}" if isinstance(value, float) else {True: "on", False: "off"}.get(value, str(value))
    return Finding(text, source)


def _others(state: dict[str, Any], refused: dict[str, str]) -> Finding:
    """Memory of other processes: NVML was asked before this one had any."""
    processes = state.get("process_bytes")
    if processes is None:
        return Finding("unknown", refused.get("process_bytes", "NVML did not say"))
    listed = "; ".join(f"process {pid}: {size / 2**20:.0f} MiB" for pid, size in processes.items())
    return Finding(str(sum(processes.values())), f"NVML; {listed or 'no other process holds memory'}")
