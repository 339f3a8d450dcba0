"""What is calibrated when no model is named."""

from __future__ import annotations

from advisor.core.model import ModelSpec


def default_model() -> ModelSpec:
    """An encoder of MiniLM-L6's size without weights: small, and with the operators that every transformer has."""
    from transformers import BertConfig

    config = BertConfig(hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536)
    values = {**config.to_dict(), "architectures": ["BertForSequenceClassification"]}
    return ModelSpec(
        source="MiniLM-size encoder",
        kind="config",
        task="sequence-classification",
        config=values,
        model_type="bert",
        total_parameters=22_714_754,
        hidden_size=384,
        num_hidden_layers=6,
        vocab_size=30522,
        max_positions=512,
    )
