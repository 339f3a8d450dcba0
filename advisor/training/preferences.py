"""The model before training, which scores pairs of answers beside the one that trains."""

from __future__ import annotations

import copy
from typing import Any

from torch import nn

from advisor.core.errors import InputError

BETA = 0.1
"""How much a departure from the model before training costs: TRL's default, and what Rafailov et al. 2023 used unless
they say otherwise (arXiv:2305.18290, appendix B)."""


def scores_without_adapter(model: nn.Module) -> bool:
    """Whether the model is as before training once its adapter is switched off, so that no copy is needed."""
    return hasattr(model, "peft_config")


def frozen_copy(model: nn.Module) -> nn.Module | None:
    """The model as it is now, in evaluation mode and without gradients; ``None`` where no copy is needed."""
    if scores_without_adapter(model):
        return None
    reference = copy.deepcopy(model).eval()
    return reference.requires_grad_(False)


def settle_model(model: nn.Module) -> None:
    """What TRL's ``DPOTrainer`` asks of a model: no dropout, or answers would be compared under different masks, and an
    output projection whose weights it can multiply with.

    Raises:
        InputError: an adapter took the place of the output projection.
    """
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    head: Any = getattr(model, "get_output_embeddings", lambda: None)()
    if scores_without_adapter(model) and not isinstance(head, nn.Linear):
        raise InputError(
            "preferences need an output projection without an adapter, whose weights are multiplied with, but it is a"
            f" {type(head).__module__}.{type(head).__name__}",
            fix="leave the output projection out of the adapter's targets",
        )
