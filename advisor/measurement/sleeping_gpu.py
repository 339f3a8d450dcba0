"""Importing libraries on a machine with a GPU without starting CUDA: a process that has started it cannot be forked."""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

DRIVER_FILES = ("/proc/driver/nvidia/version", "/dev/nvidiactl", "/dev/dxg")
"""What a machine with a loaded NVIDIA driver has, in a container too (the last one: Windows' subsystem for Linux)."""


@contextlib.contextmanager
def sleeping_gpu() -> Iterator[None]:
    """While the block runs, a GPU's compute capability is NVML's answer and not that of a started CUDA.

    bitsandbytes (through peft, through transformers' Trainer) asks torch for it when it is imported, to choose its
    library; other packages ask too. In the server that measuring processes are forked from, that question would start
    CUDA, and every one of them would fail with "cannot re-initialize CUDA in forked subprocess". So would the mere
    question whether there is a GPU, where torch cannot ask NVML.

    Raises:
        ImportError: libraries would ask and NVML cannot answer; import nothing then, and leave it to the children.
    """
    if is_hidden_from_nvml():
        raise ImportError("nothing can be imported without starting CUDA: there is a GPU, but no NVML to ask about it")
    if not torch.cuda.is_available():
        yield
        return
    from advisor.hardware.nvml import NvmlUnavailable, compute_capability

    try:
        capability = compute_capability()
    except NvmlUnavailable as failure:
        if importlib.util.find_spec("bitsandbytes") is None:
            yield
            return
        raise ImportError(f"bitsandbytes cannot be imported without starting CUDA: {failure.message}") from None
    asked = torch.cuda.get_device_capability

    def answered(device: Any = None) -> tuple[int, int]:
        return capability

    torch.cuda.get_device_capability = answered
    try:
        yield
    finally:
        torch.cuda.get_device_capability = asked


def is_hidden_from_nvml() -> bool:
    """Whether there is a GPU that torch cannot count through NVML: in a container that was not given the driver's
    utilities, for example, or a part of a GPU that is named by its UUID.

    torch then asks the CUDA runtime, after which no process that is forked from this one can use CUDA
    (``torch.cuda.is_available``, ``PYTORCH_NVML_BASED_CUDA_CHECK``).
    """
    if not torch.backends.cuda.is_built() or not any(Path(file).exists() for file in DRIVER_FILES):
        return False
    count = getattr(torch.cuda, "_device_count_nvml", None)  # below zero where NVML fails; starts nothing
    return count is not None and count() < 0
