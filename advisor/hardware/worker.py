"""The probing process: tries and times everything on one device and prints each finding as one JSON line.

Run as ``python -m advisor.hardware.worker``. It is a process of its own because it may be interrupted, a broken native
library may kill it, and what it imports must not stay in the caller. Anything that libraries print goes to standard
error.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
from collections.abc import Callable
from typing import Any

from advisor.core.store import user_data_dir
from advisor.hardware.host import inspect_host, resident_bytes

TRAINING_IMPORTS = ("torch", "transformers", "transformers.trainer", "peft", "accelerate", "safetensors.torch")
"""What a training process has imported before it builds its model."""
QUICK_GRID_S, FULL_GRID_S = 3.0, 40.0

Emit = Callable[..., None]


def main(arguments: list[str] | None = None) -> None:
    """Probe the device named on the command line and print findings until done."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="")
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args(arguments)
    emit = _take_stdout()
    for module in TRAINING_IMPORTS:
        importlib.import_module(module)
    imported_bytes = resident_bytes()
    device = _choose_device(options.device, emit)
    if device is None:
        return
    if device == "cpu":
        emit(
            kind="context",
            bytes=imported_bytes,
            reason="resident set of a fresh process after importing " + ", ".join(TRAINING_IMPORTS),
        )
    else:
        _describe_cuda(device, emit)
    _probe(device, QUICK_GRID_S if options.quick else FULL_GRID_S, emit)


def _take_stdout() -> Emit:
    """Keep the real standard output for findings and send what libraries print to standard error."""
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def emit(**finding: Any) -> None:
        channel.write(json.dumps(finding) + "\n")
        channel.flush()

    return emit


def _choose_device(wanted: str, emit: Emit) -> str | None:
    import torch

    torch.set_num_threads(inspect_host().cores)
    available = torch.cuda.is_available()
    device = wanted or ("cuda:0" if available else "cpu")
    device = "cuda:0" if device == "cuda" else device
    if device != "cpu":
        count = torch.cuda.device_count() if available else 0
        index = device.removeprefix("cuda:")
        if not (device.startswith("cuda:") and index.isdigit() and int(index) < count):
            emit(kind="error", message=f"the device must be cpu or one of {count} CUDA devices, but got {device!r}")
            return None
        torch.cuda.set_device(device)
    emit(kind="device", device=device, torch=torch.__version__, threads=torch.get_num_threads())
    return device


def _describe_cuda(device: str, emit: Emit) -> None:
    import torch

    properties = torch.cuda.get_device_properties(device)
    torch.zeros(1, device=device)
    free, total = torch.cuda.mem_get_info(device)
    emit(
        kind="cuda",
        name=properties.name,
        capability=[properties.major, properties.minor],
        total_bytes=total,
        free_bytes=free,
        uuid=str(getattr(properties, "uuid", "")),
        multi_processors=properties.multi_processor_count,
        cuda=torch.version.cuda,
    )


def _cuda_context(device: str, emit: Emit) -> None:
    """Context and loaded kernels: what NVML counts for this process beyond the allocator's reserve, after training
    kernels ran.
    """
    import torch

    from advisor.core.errors import DeviceError
    from advisor.hardware.nvml import process_memory_bytes

    try:
        properties = torch.cuda.get_device_properties(device)
        used = process_memory_bytes(uuid=str(properties.uuid)) - torch.cuda.memory_reserved(device)
        emit(
            kind="context",
            bytes=used,
            reason="NVML's figure of a process after matrix and attention kernels ran, minus the allocator's reserve",
        )
    except (DeviceError, AttributeError) as failure:
        emit(kind="fact", name="context", value="unknown", reason=str(failure).splitlines()[0])


def _probe(device: str, grid_s: float, emit: Emit) -> None:
    from advisor.hardware.kernels import DTYPES, KERNELS, try_attention_kernel, try_bitsandbytes, try_dtype
    from advisor.hardware.rates import measure_rates, measure_storage

    works = []
    for dtype in DTYPES:
        found = try_dtype(device, dtype)
        emit(kind="dtype", name=dtype, value=found.value, reason=found.reason)
        works += [dtype] if found.value == "yes" else []
    half = next((dtype for dtype in ("bfloat16", "float16") if dtype in works), "float32")
    for kernel in KERNELS:
        found = try_attention_kernel(device, kernel, "float32" if device == "cpu" else half)
        emit(kind="kernel", name=kernel, value=found.value, reason=found.reason)
    timed = tuple(dtype for dtype in works if dtype in ("float32", half))
    for point in measure_rates(device, timed, budget_s=grid_s):
        emit(
            kind="rate",
            key=point.key,
            label=point.label,
            work=point.work,
            median_s=point.timing.median_s,
            spread=point.timing.spread,
        )
    point = measure_storage(user_data_dir("profiles"))
    emit(kind="rate", key=point.key, label=point.label, work=point.work, median_s=point.timing.median_s, spread=0.0)
    if device != "cpu":
        _cuda_context(device, emit)
    emit(kind="trying", name="bitsandbytes")
    found = try_bitsandbytes(device)
    emit(kind="fact", name="bitsandbytes", value=found.value, reason=found.reason)
    emit(kind="done")


if __name__ == "__main__":
    main(sys.argv[1:])
