"""What is calibrated when no model is named."""

from __future__ import annotations

from advisor.core.model import ModelSpec


def default_subjects(*, quick: bool) -> tuple[tuple[ModelSpec, bool], ...]:
    """Models to calibrate with, and whether a quick agenda is enough.

    An encoder, and where there is time a decoder: together they have the operators of nearly all transformers. A few
    steps of a larger encoder then tell what happens when weights and optimizer states leave the cache.
    """
    if quick:
        return ((encoder(), True),)
    return ((encoder(), False), (decoder(), False), (large_encoder(), True))


def encoder() -> ModelSpec:
    """An encoder of MiniLM-L6's size without weights: small, and with the operators that every transformer has."""
    return _bert("MiniLM-size encoder", 22_713_986, hidden_size=384, num_hidden_layers=6)


def large_encoder() -> ModelSpec:
    """An encoder of BERT-base's size."""
    return _bert("BERT-base-size encoder", 109_483_778, hidden_size=768, num_hidden_layers=12)


def _bert(source: str, total_parameters: int, *, hidden_size: int, num_hidden_layers: int) -> ModelSpec:
    from transformers import BertConfig

    config = BertConfig(
        hidden_size=hidden_size,
        num_hidden_layers=num_hidden_layers,
        num_attention_heads=12,
        intermediate_size=4 * hidden_size,
    )
    values = {**config.to_dict(), "architectures": ["BertForSequenceClassification"]}
    return ModelSpec(
        source=source,
        kind="config",
        task="sequence-classification",
        config=values,
        model_type="bert",
        total_parameters=total_parameters,
        hidden_size=hidden_size,
        num_hidden_layers=num_hidden_layers,
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
