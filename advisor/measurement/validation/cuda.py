"""The GPU at hand: what it is and what a process can hold of it now."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from advisor.measurement.isolation import isolated
from advisor.measurement.validation.nvml_figure import ProcessFigure


@dataclass(frozen=True)
class CudaFacts:
    """What a bare process sees.

    Attributes:
        name: Product name.
        total_bytes: As ``cudaMemGetInfo`` says.
        free_bytes: The same, with this process's context already there.
        context_bytes: The driver's figure of a process that holds nothing else; ``None`` where it does not say.
        process_figure: Where that figure comes from, or why there is none.
    """

    name: str
    total_bytes: int
    free_bytes: int
    context_bytes: int | None
    process_figure: str


def cuda_facts() -> CudaFacts:
    """Look at the GPU from a process of its own, which leaves nothing behind on it.

    Raises:
        RunFailed: there is none that works; the message says what torch said.
    """
    return isolated(look_at_gpu, timeout_s=120.0).unwrap()


def look_at_gpu() -> CudaFacts:
    """The same in this process."""
    figure = ProcessFigure(current_uuid)
    torch.zeros(1, device="cuda")
    context_bytes = figure.read()
    free_bytes, total_bytes = torch.cuda.mem_get_info()
    return CudaFacts(torch.cuda.get_device_name(), total_bytes, free_bytes, context_bytes, figure.reason)


def current_uuid() -> str:
    """UUID of torch's current GPU, without the ``GPU-`` prefix; empty where this torch does not say."""
    return str(getattr(torch.cuda.get_device_properties(torch.cuda.current_device()), "uuid", ""))
