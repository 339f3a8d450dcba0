"""Tensors that outlive a step: weights, quantisation statistics, optimizer states."""

from __future__ import annotations

from typing import Any

import torch

from advisor.costmodel.trace.peft_fakes import kept_tensors


def frozen_tensors(model: torch.nn.Module) -> list[torch.Tensor]:
    """Parameters that do not train, buffers, what PEFT's layers keep beside them, and statistics of 4-bit weights."""
    tensors = [p for p in model.parameters() if not p.requires_grad]
    tensors.extend(model.buffers())
    tensors.extend(kept_tensors(model))
    for parameter in list(tensors):
        state = getattr(parameter, "quant_state", None)
        if state is not None:
            tensors.extend(_quantization_tensors(state))
    return tensors


def _quantization_tensors(state: Any) -> list[torch.Tensor]:
    nested = state.state2
    candidates = [state.absmax, state.code, state.offset]
    if nested is not None:
        candidates += [nested.absmax, nested.code]
    return [t for t in candidates if isinstance(t, torch.Tensor)]


def state_tensors(optimizer: torch.optim.Optimizer) -> list[torch.Tensor]:
    """What the optimizer keeps between steps."""
    return [v for state in optimizer.state.values() for v in state.values() if isinstance(v, torch.Tensor)]


def logical_parameters(model: torch.nn.Module) -> int:
    """Parameters of the model, 4-bit weights at their unpacked size."""
    total = 0
    for parameter in model.parameters():
        state = getattr(parameter, "quant_state", None)
        total += int(torch.Size(state.shape).numel()) if state is not None else parameter.numel()
    return total
