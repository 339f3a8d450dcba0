"""bitsandbytes' 8-bit AdamW for traces: the same states and temporaries, without its kernels.

``bitsandbytes.optim.AdamW`` asks its own library about device pointers, which fake tensors do not have. This stand-in
allocates what ``Optimizer2State.init_state`` allocates and touches what ``update_step`` touches (bitsandbytes 0.50,
``optim/optimizer.py``; on CPU ``backends/cpu/ops.py``). bitsandbytes need not be installed.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import Any

import torch
from torch import nn

MIN_8BIT_ELEMENTS = 4096
"""Smaller tensors keep float32 moments (``min_8bit_size``)."""

BLOCK_ELEMENTS = 256
"""Elements that share one scale (``blocksize`` in ``init_state``)."""

MAP_ENTRIES = 256
"""Entries of each of the two code books, which all parameters share (``fill_qmap``)."""

PAGED_MIN_ELEMENTS = 100_000
"""Smaller states stay in device memory even when the optimizer is paged (``get_state_buffer``)."""


class StandInAdamW8bit(torch.optim.Optimizer):
    """Allocates and updates like ``bitsandbytes.optim.AdamW(optim_bits=8)``; the values mean nothing.

    Args:
        params: Parameter groups as the Trainer makes them.
        lr, betas, eps, weight_decay: As in bitsandbytes.
        paged: Large states live in host memory, on torch's ``cpu`` device: outside of the device's allocator.
        full_precision: Parameters with float32 moments whatever their size; the Trainer names all embeddings.
    """

    def __init__(
        self,
        params: Any,
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        *,
        paged: bool = False,
        full_precision: Iterable[nn.Parameter] = (),
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})
        self._paged = paged
        self._full_precision = {id(parameter) for parameter in full_precision}
        self._maps: tuple[torch.Tensor, ...] = ()

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    self._create_state(parameter, state)
                _update(parameter, state)

    def _create_state(self, parameter: torch.Tensor, state: dict[str, torch.Tensor]) -> None:
        small = parameter.numel() < MIN_8BIT_ELEMENTS or id(parameter) in self._full_precision
        dtype = torch.float32 if small else torch.uint8
        for name in ("state1", "state2"):
            state[name] = self._buffer(parameter, dtype)
        if small:
            return
        if not self._maps:
            self._maps = tuple(torch.empty(MAP_ENTRIES, device=parameter.device) for _ in range(2))
        state["qmap1"], state["qmap2"] = self._maps
        blocks = -(-parameter.numel() // BLOCK_ELEMENTS)
        for name in ("absmax1", "absmax2"):
            state[name] = torch.zeros(blocks, dtype=torch.float32, device=parameter.device)

    def _buffer(self, parameter: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        on_host = self._paged and parameter.numel() >= PAGED_MIN_ELEMENTS
        return torch.zeros_like(parameter, dtype=dtype, device="cpu" if on_host else parameter.device)


def _update(parameter: torch.Tensor, state: dict[str, torch.Tensor]) -> None:
    if not parameter.is_cpu:
        _register_kernel()
        torch.ops.advisor._fused_adamw_8bit_([parameter], [parameter.grad], list(state.values()))
    elif "absmax1" in state:
        _update_8bit_on_cpu(parameter, state)
    else:
        _update_32bit_on_cpu(parameter, state)


@cache
def _register_kernel() -> torch.library.Library:
    """One kernel per parameter and no temporaries, as on CUDA; named so that it counts as a fused optimizer."""
    library = torch.library.Library("advisor", "FRAGMENT")
    library.define("_fused_adamw_8bit_(Tensor(a!)[] self, Tensor[] grads, Tensor(b!)[] states) -> ()")
    torch.library.register_fake("advisor::_fused_adamw_8bit_", lambda self, grads, states: None, lib=library)
    return library


def _update_32bit_on_cpu(parameter: torch.Tensor, state: dict[str, torch.Tensor]) -> None:
    """The operators of ``_optimizer_update_32bit_cpu``."""
    gradient = _gradient(parameter)
    values = parameter.detach().float()
    state["state1"].mul_(0.9).add_(gradient)
    state["state2"].mul_(0.999).addcmul_(gradient, gradient)
    update = state["state1"] / (state["state2"].sqrt() + 1e-8)
    parameter.detach().copy_(values.add_(update))


def _update_8bit_on_cpu(parameter: torch.Tensor, state: dict[str, torch.Tensor]) -> None:
    """The operators of ``_optimizer_update_8bit_blockwise_cpu``: both moments in float32 for the time of one update."""
    first = torch.empty_like(state["state1"], dtype=torch.float32)
    second = torch.empty_like(state["state2"], dtype=torch.float32)
    gradient = _gradient(parameter)
    values = parameter.detach().float()
    first.mul_(0.9).add_(gradient)
    second.mul_(0.999).addcmul_(gradient, gradient)
    denominator = (second.sqrt() / 1.0).add_(1e-8)
    values.addcdiv_(first, denominator)
    parameter.detach().copy_(values)
    for moment, name in ((first, "1"), (second, "2")):
        _requantize(moment, state[f"state{name}"], state[f"absmax{name}"])


def _gradient(parameter: torch.Tensor) -> torch.Tensor:
    gradient = parameter.grad
    if gradient is None:
        raise RuntimeError("an update needs a gradient")
    return gradient.float() * 1.0


def _requantize(moment: torch.Tensor, codes: torch.Tensor, scales: torch.Tensor) -> None:
    new_codes = torch.empty_like(moment, dtype=torch.uint8)
    new_scales = torch.empty_like(scales)
    codes.copy_(new_codes)
    scales.copy_(new_scales)
