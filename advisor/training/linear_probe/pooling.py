"""One vector a row from a frozen model: the mean over its tokens, or what the model's own output layer reads."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from advisor.core.plan import ExecutionPlan
from advisor.strategies.base import Pooling
from advisor.strategies.linear_probe import output_layer_name
from advisor.strategies.targets import backbone
from advisor.training.switches import autocast


class Pooler:
    """Runs batches through a model in evaluation mode and pools what comes out.

    Use as a context manager: it listens to the model meanwhile.

    Args:
        model: With its head, in evaluation mode.
        pooling: Where features are taken.
        execution: Its mixed precision.
        device_type: Of the model's tensors.
    """

    def __init__(self, model: nn.Module, pooling: Pooling, execution: ExecutionPlan, device_type: str) -> None:
        self._model, self._pooling, self._device_type = model, pooling, device_type
        self._execution = execution
        self._seen: Any = None
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Pooler:
        if self._pooling == "own":
            layer = self._model.get_submodule(output_layer_name(self._model))
            hook = layer.register_forward_pre_hook(self._see_input)
        else:
            hook = backbone(self._model).register_forward_hook(self._see_output)
        self._stack.callback(hook.remove)
        return self

    def __exit__(self, *details: object) -> None:
        self._stack.close()

    def __call__(self, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Features of a batch without labels, float32 of shape (rows, width), on the model's device."""
        inputs = {name: values.to(self._device_type) for name, values in batch.items() if name != "labels"}
        with torch.no_grad(), autocast(self._execution, self._device_type):
            self._model(**inputs)
            hidden, self._seen = self._seen, None
            mask = inputs["attention_mask"]
            return hidden.float() if hidden.dim() == 2 else self._pooled(hidden, mask)

    def _pooled(self, hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Of hidden states of shape (rows, tokens, width)."""
        if self._pooling == "own":  # decoders score every token, and take the last one that is not padding
            last = mask.shape[1] - 1 - mask.flip(1).argmax(dim=1)
            return hidden[torch.arange(len(hidden), device=hidden.device), last].float()
        weights = mask.unsqueeze(-1).to(hidden.dtype)
        return ((hidden * weights).sum(dim=1) / weights.sum(dim=1)).float()

    def _see_input(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        self._seen = inputs[0]

    def _see_output(self, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        encoded = getattr(output, "encoder_last_hidden_state", None)
        self._seen = encoded if encoded is not None else output[0]
