"""Sliding windows and chunks: a step runs other operators once its rows are longer than a layer can see.

transformers leaves a mask out while nothing falls out of the window (masking_utils.py: ``kv_length < local_size``).
Both sides are regimes of their own, and a few short traces must stand for all lengths of one side. A window's width is
the size of no storage, so the traced model gets one that puts every traced length on the wanted side.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from advisor.core.data import padded_length
from advisor.core.model import ModelSpec

NARROW, WIDE = 4, 1 << 20
"""Windows that every traced length exceeds, and that none reaches."""


def in_window_regime(model: ModelSpec, seq_length: int) -> ModelSpec:
    """The model with windows that no traced length reaches, or all exceed, as ``seq_length`` does the real ones.

    Args:
        model: Its configuration, as completed by transformers, says which windows there are.
        seq_length: Longest row of a batch in tokens.
    """
    from advisor.strategies.skeleton import build_skeleton

    config: Any = build_skeleton(model).config
    text = config.get_text_config()
    padded = padded_length(seq_length)
    changes = {}
    for name, share in (("sliding_window", 1), ("attention_chunk_size", 1), ("local_attention", 2)):
        width = getattr(text, name, None)
        # ModernBERT's sliding window is half of its local_attention, not a setting of its own.
        if isinstance(width, int) and width > 0 and not (share == 1 and hasattr(text, "local_attention")):
            changes[name] = share * (NARROW if padded >= width // share else WIDE)
    if not changes:
        return model
    if isinstance(model.config.get("text_config"), dict) and text is not config:
        nested = {**model.config, "text_config": {**model.config["text_config"], **changes}}
        return replace(model, config=nested)
    return replace(model, config={**model.config, **changes})
