"""What is calibrated when no model is named."""

from __future__ import annotations

from advisor.core.model import ModelSpec


def default_models(*, quick: bool) -> tuple[ModelSpec, ...]:
    """An encoder, and where there is time a decoder: together they have the operators of nearly all transformers."""
    return (encoder(),) if quick else (encoder(), decoder())


def encoder() -> ModelSpec:
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


def decoder() -> ModelSpec:
    """A decoder of Llama's kind, eight layers of 512, with a vocabulary of 32,000."""
    from transformers import LlamaConfig

    config = LlamaConfig(
        hidden_size=512,
        num_hidden_layers=8,
        num_attention_heads=8,
        num_key_value_heads=8,
        intermediate_size=1408,
        vocab_size=32000,
        max_position_embeddings=2048,
    )
    values = {**config.to_dict(), "architectures": ["LlamaForCausalLM"]}
    return ModelSpec(
        source="small decoder",
        kind="config",
        task="causal-lm",
        config=values,
        model_type="llama",
        total_parameters=58_466_816,
        hidden_size=512,
        num_hidden_layers=8,
        vocab_size=32000,
        max_positions=2048,
    )
