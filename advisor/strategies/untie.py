"""Untying a language model's output projection from its embeddings."""

from __future__ import annotations

import torch
from torch import nn


def untie_output_embeddings(model: nn.Module) -> bool:
    """Give the output projection its own copy of a weight that it shares with the embeddings.

    The configuration is told, so that saving keeps both and loading does not tie them again.

    Returns:
        Whether anything was shared.
    """
    output = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    inputs = model.get_input_embeddings() if hasattr(model, "get_input_embeddings") else None
    if output is None or inputs is None or output.weight is not inputs.weight:
        return False
    output.weight = nn.Parameter(output.weight.detach().clone(), requires_grad=output.weight.requires_grad)
    model.config.tie_word_embeddings = False
    model.all_tied_weights_keys = {}
    return True


def unshared_state(model: nn.Module) -> dict[str, torch.Tensor]:
    """The state with a copy of its own for every name.

    Masked-LM heads share their bias under two names. transformers stores a shared tensor once and ties it again on
    loading, which it no longer does for a model whose embeddings are untied.
    """
    seen: set[int] = set()
    state = {}
    for name, value in model.state_dict().items():
        state[name] = value.clone() if value.data_ptr() in seen else value
        seen.add(value.data_ptr())
    return state
