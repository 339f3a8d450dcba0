"""Small models of many architectures, as configuration files, for traces and real steps alike."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import transformers

from advisor.core.model import ModelSpec, Task
from advisor.training.models import inspect_model

WIDTH, LAYERS, HEADS, VOCAB = 128, 3, 4, 2000
WINDOW = 32

ENCODER: dict[str, Any] = {
    "hidden_size": WIDTH,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "intermediate_size": 4 * WIDTH,
    "vocab_size": VOCAB,
    "pad_token_id": 0,
}
DECODER: dict[str, Any] = {**ENCODER, "intermediate_size": 352, "num_key_value_heads": 2, "eos_token_id": 1}
GPT2 = {"n_embd": WIDTH, "n_layer": LAYERS, "n_head": HEADS, "vocab_size": VOCAB, "pad_token_id": 0, "eos_token_id": 1}
DISENTANGLED = {
    "relative_attention": True,
    "position_buckets": 64,
    "norm_rel_ebd": "layer_norm",
    "share_att_key": True,
    "pos_att_type": ["p2c", "c2p"],
    "position_biased_input": False,
    "type_vocab_size": 0,
    "pooler_hidden_size": WIDTH,
}
GEMMA = {**DECODER, "head_dim": 64, "sliding_window": WINDOW, "query_pre_attn_scalar": 64}

BUILDERS: dict[str, Callable[[], transformers.PreTrainedConfig]] = {
    "bert": partial(transformers.BertConfig, **ENCODER),
    "roberta": partial(transformers.RobertaConfig, **ENCODER | {"pad_token_id": 1, "type_vocab_size": 1}),
    "xlm-roberta": partial(transformers.XLMRobertaConfig, **ENCODER | {"pad_token_id": 1, "type_vocab_size": 1}),
    "distilbert": partial(
        transformers.DistilBertConfig, dim=WIDTH, n_layers=LAYERS, n_heads=HEADS, hidden_dim=4 * WIDTH, vocab_size=VOCAB
    ),
    "deberta-v2": partial(transformers.DebertaV2Config, **ENCODER, **DISENTANGLED),
    "deberta-xxl": partial(
        transformers.DebertaV2Config, **ENCODER, **DISENTANGLED, conv_kernel_size=3, conv_act="gelu",
        attention_head_size=32,
    ),
    "electra": partial(transformers.ElectraConfig, **ENCODER, embedding_size=64),
    "albert": partial(transformers.AlbertConfig, **ENCODER, embedding_size=64, inner_group_num=1),
    "modernbert": partial(
        transformers.ModernBertConfig, **ENCODER | {"num_hidden_layers": 4}, local_attention=WINDOW, cls_token_id=1,
        sep_token_id=2, eos_token_id=2, bos_token_id=1,
    ),
    "gpt2": partial(transformers.GPT2Config, **GPT2),
    "gpt_bigcode": partial(transformers.GPTBigCodeConfig, **GPT2),
    "gpt_neox": partial(transformers.GPTNeoXConfig, **ENCODER),
    "llama": partial(transformers.LlamaConfig, **DECODER),
    "mistral": partial(transformers.MistralConfig, **DECODER, sliding_window=WINDOW),
    "mixtral": partial(transformers.MixtralConfig, **DECODER, num_local_experts=4, sliding_window=None),
    "qwen2": partial(transformers.Qwen2Config, **DECODER),
    "qwen3": partial(transformers.Qwen3Config, **DECODER, head_dim=32),
    "gemma2": partial(transformers.Gemma2Config, **GEMMA | {"num_hidden_layers": 4}),
    "gemma3_text": partial(transformers.Gemma3TextConfig, **GEMMA | {"num_hidden_layers": 6}),
    "phi3": partial(transformers.Phi3Config, **DECODER),
    "granite": partial(transformers.GraniteConfig, **DECODER),
    "olmo2": partial(transformers.Olmo2Config, **DECODER),
    "t5": partial(
        transformers.T5Config, d_model=WIDTH, num_layers=LAYERS, num_heads=HEADS, d_ff=4 * WIDTH, d_kv=32,
        vocab_size=VOCAB, decoder_start_token_id=0, pad_token_id=0,
    ),
}  # fmt: skip


ENCODERS = (
    "bert", "roberta", "xlm-roberta", "distilbert", "deberta-v2", "deberta-xxl", "electra", "albert", "modernbert",
)  # fmt: skip


def main_task(name: str) -> Task:
    """What the architecture is usually trained for."""
    if name in ENCODERS:
        return "sequence-classification"
    return "seq2seq-lm" if name == "t5" else "causal-lm"


def only_eager() -> tuple[str, ...]:
    """Architectures for which transformers implements no SDPA."""
    return ("deberta-v2", "deberta-xxl", "gemma2")


def tiny_spec(name: str, task: Task, folder: Path, **changes: object) -> ModelSpec:
    """Write ``config.json`` of a tiny model and inspect it.

    Args:
        changes: Configuration values to replace, for example ``num_hidden_layers=8``.
    """
    builder = BUILDERS[name]
    assert isinstance(builder, partial)
    config = builder.func(**{**builder.keywords, **changes})
    digest = hashlib.sha256(repr(sorted(changes.items())).encode()).hexdigest()[:8]
    path = folder / f"{name}-{task}-{digest}" / "config.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(config.to_json_string(), encoding="utf-8")
    return inspect_model(str(path), task)
