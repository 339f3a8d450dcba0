"""What is calibrated when no model is named."""

from __future__ import annotations

from typing import Any

from advisor.core.device import DeviceProfile
from advisor.core.model import ModelSpec

LARGE_DECODER_BYTES = 12 * 2**30
"""Free memory from which on the large decoder is worth a try: its weights, gradients and moments in bfloat16 are 9.2
GiB; with less its adapters still train in 4 GiB, and the agenda leaves out what does not fit."""


def default_models(device: DeviceProfile, *, quick: bool) -> tuple[tuple[ModelSpec, bool], ...]:
    """Models to calibrate with, and whether a quick agenda is enough.

    An encoder, and where there is time a decoder: together they have the operators of nearly all transformers. A few
    steps of a larger encoder then tell what happens when weights and optimizer states leave the cache, and on a GPU
    those of a decoder with a billion parameters what happens when operators take longer than launching them.
    """
    if quick:
        return ((encoder(), True),)
    subjects = ((encoder(), False), (decoder(), False), (large_encoder(), True))
    free = device.memory_bytes if device.available_bytes is None else device.available_bytes
    if device.type == "cuda" and "bfloat16" in device.dtypes and free >= LARGE_DECODER_BYTES:
        return (*subjects, (large_decoder(), True))
    return subjects


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
    return _llama(
        "small decoder",
        58_466_816,
        hidden_size=512,
        num_hidden_layers=8,
        num_attention_heads=8,
        num_key_value_heads=8,
        intermediate_size=1408,
        vocab_size=32000,
        max_position_embeddings=2048,
    )


def large_decoder() -> ModelSpec:
    """A decoder of Llama-3.2-1B's shape."""
    return _llama(
        "decoder of a billion parameters",
        1_235_814_400,
        hidden_size=2048,
        num_hidden_layers=16,
        num_attention_heads=32,
        num_key_value_heads=8,
        intermediate_size=8192,
        vocab_size=128256,
        max_position_embeddings=8192,
        tie_word_embeddings=True,
    )


def _llama(source: str, total_parameters: int, **shape: Any) -> ModelSpec:
    from transformers import LlamaConfig

    config = LlamaConfig(**shape)
    values = {**config.to_dict(), "architectures": ["LlamaForCausalLM"]}
    return ModelSpec(
        source=source,
        kind="config",
        task="causal-lm",
        config=values,
        model_type="llama",
        total_parameters=total_parameters,
        hidden_size=shape["hidden_size"],
        num_hidden_layers=shape["num_hidden_layers"],
        vocab_size=shape["vocab_size"],
        max_positions=shape["max_position_embeddings"],
    )
