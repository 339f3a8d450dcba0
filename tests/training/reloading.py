"""What a run saved, loaded again as its users do: by transformers and PEFT alone."""

from __future__ import annotations

import contextlib
from pathlib import Path

import torch
from torch import nn

from advisor.core.model import ModelSpec
from advisor.core.plan import ExecutionPlan
from advisor.core.strategy import StrategyConfig
from advisor.strategies import get_strategy
from advisor.training.build import build_base


def load_trained(spec: ModelSpec, strategy: StrategyConfig, execution: ExecutionPlan, directory: Path) -> nn.Module:
    """The trained model, in evaluation mode; one that was saved whole needs none of the base model's weights."""
    import peft

    whole = get_strategy(strategy.method).saves_whole_model
    with torch.device("meta") if whole else contextlib.nullcontext():
        base = build_base(spec, strategy, execution, empty=whole)
    if whole:
        return type(base).from_pretrained(directory, use_safetensors=True).eval()
    return peft.PeftModel.from_pretrained(base, directory).eval()
