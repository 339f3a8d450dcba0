"""Magnitude pruning of adapter weights while they train. Stock Trainer callbacks only.

The state is derived from the weights and the step alone, so a run that resumes from a checkpoint goes on exactly as if
it had not been interrupted: once pruning has begun, a weight that is zero is a pruned one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import TrainerCallback

PRUNING_EVENTS = 50
"""Most times that masks are recomputed between the first and the last pruning step; sorting every step buys nothing."""


@dataclass(frozen=True)
class CubicSchedule:
    """``s_t = s_f (1 - (1 - (t - t0) / (tf - t0))^3)``: Zhu and Gupta 2017 (arXiv:1710.01878), as in Yadav et al. 2025.

    Attributes:
        final_sparsity: ``s_f``, share of zeroed weights from ``last_step`` on.
        first_step, last_step: ``t0`` and ``tf`` in optimizer steps.
    """

    final_sparsity: float
    first_step: int
    last_step: int

    def sparsity(self, step: int) -> float:
        """Share of weights that are zero after optimizer step ``step`` (counted from 1)."""
        if step <= self.first_step:
            return 0.0
        progress = min(1.0, (step - self.first_step) / max(1, self.last_step - self.first_step))
        return self.final_sparsity * (1 - (1 - progress) ** 3)

    def prunes_after(self, step: int) -> bool:
        """Whether masks are recomputed after this step; from ``last_step`` on they are fixed."""
        if not self.first_step < step <= self.last_step:
            return False
        interval = max(1, (self.last_step - self.first_step) // PRUNING_EVENTS)
        return step == self.last_step or (step - self.first_step) % interval == 0


def schedule_for(final_sparsity: float, max_steps: int) -> CubicSchedule:
    """Dense for the first tenth of the run (warm-up, and B leaves zero), final sparsity at three quarters.

    Yadav et al. 2025 do not state t0 and tf. A quarter of the run is left to recover with the mask fixed.
    """
    first = max_steps // 10
    return CubicSchedule(final_sparsity, first, max(first + 1, (3 * max_steps) // 4))


class SparsityCallback(TrainerCallback):
    """L1 on the gradients, masks after the optimizer step.

    Every matrix A and B is pruned to the same share on its own: B starts at zero and stays far smaller than A, so one
    threshold for all would empty B and switch the adapter off. A matrix that is all zero has not been trained yet; it
    is neither pruned nor counted as sparse.

    Args:
        final_sparsity: Share of adapter weights that end as zero.
        l1_lambda: ``l1_lambda * sign(w)`` is added to the gradient after clipping, so the penalty is not clipped away.
    """

    def __init__(self, final_sparsity: float, l1_lambda: float) -> None:
        self.final_sparsity = final_sparsity
        self.l1_lambda = l1_lambda
        self._kept: list[tuple[nn.Parameter, torch.Tensor]] = []

    @torch.no_grad()
    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        started = schedule_for(self.final_sparsity, state.max_steps).sparsity(state.global_step) > 0
        self._kept = []
        for weight in adapter_weights(kwargs["model"]):
            if weight.grad is not None:
                weight.grad.add_(weight.sign(), alpha=self.l1_lambda)
            if started and bool(weight.any()):
                self._kept.append((weight, weight != 0))

    @torch.no_grad()
    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        for weight, kept in self._kept:
            weight.mul_(kept)
        self._kept = []
        schedule, step = schedule_for(self.final_sparsity, state.max_steps), state.global_step + 1
        if schedule.prunes_after(step):
            for weight in adapter_weights(kwargs["model"]):
                prune_(weight, schedule.sparsity(step))


def adapter_weights(model: nn.Module) -> Iterator[nn.Parameter]:
    """The A and B matrices of all LoRA layers; a fully trained head is not an adapter."""
    return (parameter for name, parameter in model.named_parameters() if ".lora_A." in name or ".lora_B." in name)


def prune_(weight: torch.Tensor, sparsity: float) -> None:
    """Zero the ``sparsity`` share of smallest magnitudes of one matrix, in place."""
    count = round(sparsity * weight.numel())
    if count == 0 or not bool(weight.any()):
        return
    smallest = weight.detach().abs().flatten().argsort(stable=True)[:count]
    weight.view(-1)[smallest] = 0


def achieved_sparsity(model: nn.Module) -> float:
    """Share of zeros among the adapter weights that have been trained; 0 when none has."""
    zeros = total = 0
    for weight in adapter_weights(model):
        nonzero = int(torch.count_nonzero(weight))
        if nonzero:
            zeros += weight.numel() - nonzero
            total += weight.numel()
    return zeros / total if total else 0.0
