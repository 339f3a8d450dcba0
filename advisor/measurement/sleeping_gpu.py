"""Importing libraries on a machine with a GPU without starting CUDA: a process that has started it cannot be forked."""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Iterator
from typing import Any

import torch


@contextlib.contextmanager
def sleeping_gpu() -> Iterator[None]:
    """While the block runs, a GPU's compute capability is NVML's answer and not that of a started CUDA.

    bitsandbytes (through peft, through transformers' Trainer) asks torch for it when it is imported, to choose its
    library. In the server that measuring processes are forked from, that question would start CUDA, and every one of
    them would fail with "cannot re-initialize CUDA in forked subprocess".

    Raises:
        ImportError: bitsandbytes would ask and NVML cannot answer; import nothing then, and leave it to the children.
    """
    if not torch.cuda.is_available() or importlib.util.find_spec("bitsandbytes") is None:
        yield
        return
    from advisor.hardware.nvml import NvmlUnavailable, compute_capability

    try:
        capability = compute_capability()
    except NvmlUnavailable as failure:
        raise ImportError(f"bitsandbytes cannot be imported without starting CUDA: {failure.message}") from None
    asked = torch.cuda.get_device_capability

    def answered(device: Any = None) -> tuple[int, int]:
        return capability

    torch.cuda.get_device_capability = answered
    try:
        yield
    finally:
        torch.cuda.get_device_capability = asked
