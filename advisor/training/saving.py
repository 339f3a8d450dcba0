"""The result of a run on disk: there whole or not at all, and answering with the user's own labels."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from typing import Any

from torch import nn

from advisor.core.strategy import StrategyConfig
from advisor.strategies import get_strategy
from advisor.training.run_folder import RunFolder


def save_result(folder: RunFolder, strategy: StrategyConfig, model: nn.Module, tokenizer: Any) -> None:
    """Write adapter or model with its tokenizer beside where they belong, then rename."""
    partial = folder.path / "model.partial"
    for left_over in (partial, folder.model):
        shutil.rmtree(left_over, ignore_errors=True)
    get_strategy(strategy.method).save(model, partial)
    tokenizer.save_pretrained(partial)
    partial.rename(folder.model)


def name_classes(model: nn.Module, label_names: Sequence[str]) -> None:
    """So that the saved model answers with the user's labels instead of ``LABEL_0``."""
    config = getattr(model, "config", None)
    if label_names and config is not None and len(label_names) == getattr(config, "num_labels", 0):
        config.id2label = dict(enumerate(label_names))
        config.label2id = {name: index for index, name in enumerate(label_names)}
