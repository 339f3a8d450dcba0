"""NVIDIA cards, and what torch's ROCm build calls ``cuda``, too."""

from __future__ import annotations

import importlib.util
import os
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from advisor.core.device import DeviceProfile
from advisor.core.plan import ExecutionPlan
from advisor.core.units import counted
from advisor.hardware.backends.base import (
    Backend,
    Mark,
    MemoryTraits,
    MemoryWatch,
    OverheadTraits,
    Refusal,
    Runtime,
    SetupTraits,
)
from advisor.hardware.backends.contact import Card, Check, DriverView, TorchView, torch_build
from advisor.hardware.backends.cuda_probing import AMPERE, CudaProbing
from advisor.hardware.energy import Counter, gpu_counter

LEAST_TRITON_CAPABILITY = (7, 0)
"""Triton, which compiles for GPUs, needs compute capability 7.0 (``torch._inductor.scheduler``: "Found ... which is too
old to be supported by the triton GPU compiler")."""
DRIVER_FILE = Path("/proc/driver/nvidia/version")
"""The kernel module's own word; readable where NVML is missing or forbidden."""
WATCHED_EVERY_S = 0.05
"""A peak that lasts a few steps is missed by slower sampling: published benchmarks that looked every 0.5 s reported 546
or 812 MB for equal runs."""
STATE_EVERY_S = 1.0
"""Clocks and temperature are asked for this often."""
LEAST_DRIVERS = {11: "450.80.02", 12: "525.60.13", 13: "580.65.06"}
"""By major version of CUDA, the oldest Linux driver that runs its programs (CUDA Compatibility, "Minor Version
Compatibility")."""
WHEELS = {12: "cu126", 13: "cu130"}
"""By major version of CUDA, a folder of PyTorch's package index with builds of the supported versions of torch."""
HIDES_CARDS = "CUDA_VISIBLE_DEVICES"


def _watch_driver(watch: MemoryWatch, done: threading.Event, uuid: str) -> None:
    """Sample what the driver says this process holds, and once more at the end: the allocator gives little back."""
    from advisor.hardware.nvml import NvmlUnavailable, gpu_state, nvml_library, process_memory_bytes

    try:
        with nvml_library():  # kept open: starting it anew for each sample takes longer than a sample
            looked_at_s, last = -STATE_EVERY_S, False
            while not last:
                last = done.wait(WATCHED_EVERY_S)
                held_bytes = process_memory_bytes()
                watch.first_bytes = watch.first_bytes or held_bytes
                watch.peak_bytes = max(watch.peak_bytes or 0, held_bytes)
                if uuid and (now_s := time.monotonic()) - looked_at_s >= STATE_EVERY_S:
                    looked_at_s = now_s
                    try:
                        watch.states.append(gpu_state(uuid, only=("sm_clock_hz", "temperature_c", "slowdowns")))
                    except NvmlUnavailable:  # a part of a card has no clocks of its own
                        uuid = ""
    except NvmlUnavailable:
        return


ALLOCATOR_SETTINGS = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")
"""Settings of torch's allocator; the second is the older name, which torch still reads."""
EXPANDABLE = "expandable_segments"


def _allocator_settings() -> dict[str, str]:
    """What the environment sets, by name: ``max_split_size_mb:64,expandable_segments:True``."""
    text = next(filter(None, map(os.environ.get, ALLOCATOR_SETTINGS)), "")
    parts = (part.partition(":") for part in re.split(r",(?![^\[]*\])", text))  # a list of sizes has commas, too
    return {name.strip(): value.strip() for name, _, value in parts if name.strip()}


class CudaRuntime(Runtime):
    """``torch.cuda`` of the current device."""

    def prepare_process(self, num_threads: int | None, *, expandable_segments: bool = False) -> None:
        super().prepare_process(num_threads)
        if expandable_segments:  # the allocator reads the environment when it is first used
            settings = {**_allocator_settings(), EXPANDABLE: "True"}
            text = ",".join(f"{name}:{value}" for name, value in settings.items())
            os.environ.update(dict.fromkeys(ALLOCATOR_SETTINGS, text))

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

    def held_bytes(self) -> tuple[int | None, int | None]:
        import torch

        return torch.cuda.memory_allocated(), torch.cuda.memory_reserved()

    @contextmanager
    def memory_watch(self) -> Iterator[MemoryWatch]:
        import torch

        torch.zeros(1, device="cuda")  # makes the context, so that the first figure is the context
        watch, done = MemoryWatch(), threading.Event()
        uuid = str(getattr(torch.cuda.get_device_properties(torch.cuda.current_device()), "uuid", ""))
        thread = threading.Thread(target=_watch_driver, args=(watch, done, uuid), daemon=True)
        thread.start()
        try:
            yield watch
        finally:
            done.set()
            thread.join()

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

    def expandable_segments(self, wanted: bool | None) -> bool:
        return _allocator_settings().get(EXPANDABLE, "").lower() == "true" if wanted is None else wanted

    def driver_version(self) -> str:
        return kernel_driver()

    def driver_view(self) -> DriverView:
        from advisor.hardware.nvml import NvmlUnavailable, driver_report

        hidden = os.environ.get(HIDES_CARDS)
        try:
            version, toolkit, cards = driver_report()
        except NvmlUnavailable as failure:
            return DriverView(self.driver_version(), refused=failure.message, hidden=hidden)
        return DriverView(version, toolkit, tuple(Card(**card) for card in cards), hidden=hidden)

    def torch_view(self) -> TorchView:
        build = torch_build()
        named = [f"{title} {build[name]}" for title, name in (("CUDA", "cuda"), ("ROCm", "hip")) if build.get(name)]
        return TorchView(str(build.get("__version__", "")), (named or [""])[0])

    def architectures(self) -> tuple[str, ...]:
        import torch

        return tuple(torch.cuda.get_arch_list())

    def contact_checks(self, torch: TorchView, driver: DriverView) -> list[Check]:
        return [_build_check(torch, driver), _nvml_check(torch, driver)] if torch.version else []

    def refusals(self, execution: ExecutionPlan, *, here: bool) -> list[Refusal]:
        if not (execution.tf32 and here):
            return []
        import torch

        if not torch.cuda.is_available() or (capability := torch.cuda.get_device_capability()) >= AMPERE:
            return []
        return [(f"tf32 needs compute capability 8.0, but the device has {capability}", "leave tf32 off")]


def _build_check(torch: TorchView, driver: DriverView) -> Check:
    """Whether this build of torch can use the cards that the driver lists."""
    name = "torch, driver and card"
    cards = ", ".join(dict.fromkeys(card.name for card in driver.cards))
    build = f"torch {torch.version}" + (f" for {torch.built_for}" if torch.built_for else ", a build for the CPU only")
    if not torch.built_for:
        if not driver.cards:
            return Check(name, "ok", f"{build}; no NVIDIA card is visible here")
        action = f"install a build for the card: `{_install(driver.toolkit)}`"
        return Check(name, "problem", f"{build}, cannot use {cards}", action)
    if not (driver.version or driver.cards or torch.count):
        action = "nothing without a card; else install NVIDIA's driver (a container needs `docker run --gpus all`)"
        return Check(name, "note", f"{build}, but no NVIDIA driver is loaded: training uses the CPU", action)
    loaded = f"driver {driver.version or 'unknown'}" + (
        "" if driver.toolkit is None else f" (up to CUDA {_dotted(driver.toolkit)})"
    )
    major = re.search(r"CUDA (\d+)", torch.built_for)
    if major and driver.toolkit is not None and driver.toolkit[0] < int(major[1]) and not torch.count:
        needed = LEAST_DRIVERS.get(int(major[1]), "a newer one")
        action = f"update the driver to {needed} or newer, or fit torch to it: `{_install(driver.toolkit)}`"
        return Check(name, "problem", f"{build} needs a newer driver than {loaded}", action)
    if driver.hidden is not None and not torch.count:
        action = f"`unset {HIDES_CARDS}` to train on a card"
        return Check(name, "note", f"{build}, {loaded}, but {HIDES_CARDS}={driver.hidden!r} hides the cards", action)
    if torch.count == 0 and driver.cards:
        action = "see whether `nvidia-smi` works; after an update of the driver, restart the machine"
        return Check(name, "problem", f"{build}, {loaded}: torch cannot use {cards}", action)
    if torch.count == 0:
        return Check(name, "note", f"{build}, {loaded}, but no card is visible", "see what `nvidia-smi -L` lists")
    for card in driver.cards:
        if torch.architectures and not _runs_on(torch.architectures, card.compute_capability):
            needed, built = _dotted(card.compute_capability), ", ".join(torch.architectures)
            found = f"{build} has kernels for {built}, but {card.name} has compute capability {needed}"
            return Check(name, "problem", found, f"install a build that has them: `{_install((12, 6))}`")
    return Check(name, "ok", f"{build}, {loaded}{', ' if cards else ''}{cards}")


def _nvml_check(torch: TorchView, driver: DriverView) -> Check:
    """Whether the driver answers questions about memory, clocks and power."""
    if not driver.refused:
        return Check("NVML", "ok", f"lists {counted(len(driver.cards), 'card')}")
    if not (driver.version or torch.count):
        return Check("NVML", "ok", "not needed: there is no NVIDIA driver")
    found = f"{driver.refused}; clocks, power and memory of other processes stay unknown"
    return Check("NVML", "note", found, "`pip install nvidia-ml-py`, and see whether `nvidia-smi` works")


def _runs_on(architectures: tuple[str, ...], capability: tuple[int, int] | None) -> bool:
    """Whether compiled kernels (same major version, not newer) or portable ones (not newer) suit a card."""
    if capability is None:
        return True
    for kind, digits in (found.groups() for name in architectures if (found := re.match(r"(sm|compute)_(\d+)", name))):
        built = int(digits[:-1]), int(digits[-1])
        if built <= capability and (kind != "sm" or built[0] == capability[0]):
            return True
    return not any(name.startswith(("sm_", "compute_")) for name in architectures)


def _install(toolkit: tuple[int, int] | None) -> str:
    """The command that installs a build of torch that a driver runs."""
    fitting = [wheel for major, wheel in WHEELS.items() if toolkit is None or major <= toolkit[0]]
    wheel = fitting[-1] if fitting else WHEELS[min(WHEELS)]
    return f"pip install --force-reinstall torch --index-url https://download.pytorch.org/whl/{wheel}"


def _dotted(version: tuple[int, int] | None) -> str:
    return "unknown" if version is None else ".".join(map(str, version))
