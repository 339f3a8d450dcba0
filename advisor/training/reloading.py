"""A run's saved result as a model again."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import torch

from advisor.core.errors import ModelError
from advisor.core.plan import Plan
from advisor.hardware.backends import HOST
from advisor.strategies import get_strategy
from advisor.training.build import build_base
from advisor.training.linear_probe.saved import FACTS_FILE
from advisor.training.preferences import scores_without_adapter


def load_trained(plan: Plan, directory: Path, *, device: str = HOST) -> Any:
    """The trained model, in evaluation mode; one that was saved whole needs none of the base model's weights.

    Args:
        plan: Of the run; an adapter is put on its base model.
        directory: The ``model`` folder of the run.
        device: Where the weights go.

    Raises:
        ModelError: the result or its base model cannot be loaded.
    """
    import peft

    if (directory / FACTS_FILE).is_file():
        raise ModelError(
            f"the classifier must be part of the model, but {directory} has it beside an encoder",
            fix="load it with advisor.training.linear_probe.saved.load_linear_probe, or train with --knob pooling=own",
        )
    if not any(directory.glob("*.safetensors")):
        raise ModelError(
            f"the trained model must be whole, but {directory} has no weights (*.safetensors)", fix="run the plan again"
        )
    whole = get_strategy(plan.strategy.method).saves_whole_model
    with torch.device("meta") if whole else contextlib.nullcontext():
        base = build_base(plan.model, plan.strategy, plan.execution, device=device, empty=whole)
    try:
        if whole:
            model: Any = type(base).from_pretrained(directory, use_safetensors=True).to(device)
        else:
            model = peft.PeftModel.from_pretrained(base, directory)
    except (OSError, ValueError, RuntimeError) as failure:
        raise ModelError(
            f"the trained model must be whole, but {directory} cannot be loaded: {str(failure).splitlines()[0]}",
            fix="run the plan again",
        ) from failure
    return model.eval()


def load_reference(plan: Plan, trained: Any, *, device: str = HOST) -> Any | None:
    """The model before training, of a task that compares with it; ``None`` where the trained model is that one without
    its adapter.

    Raises:
        ModelError: the base model cannot be loaded.
    """
    if not plan.model.traits.learns_preferences or scores_without_adapter(trained):
        return None
    return build_base(plan.model, plan.strategy, plan.execution, device=device).eval().requires_grad_(False)
