"""Small models of several architectures, as configuration files, for traces and real steps alike."""

from __future__ import annotations

from pathlib import Path

import transformers

from advisor.core.model import ModelSpec, Task
from advisor.training.models import inspect_model

WIDTH, LAYERS, HEADS, VOCAB = 128, 3, 4, 2000


def _config(name: str) -> transformers.PreTrainedConfig:
    encoder = {
        "hidden_size": WIDTH,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "intermediate_size": 4 * WIDTH,
        "vocab_size": VOCAB,
    }
    if name == "bert":
        return transformers.BertConfig(**encoder)
    if name == "roberta":
        return transformers.RobertaConfig(**encoder)
    if name == "distilbert":
        return transformers.DistilBertConfig(
            dim=WIDTH, n_layers=LAYERS, n_heads=HEADS, hidden_dim=4 * WIDTH, vocab_size=VOCAB
        )
    if name == "deberta-v2":
        relative = {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_buckets": 64}
        return transformers.DebertaV2Config(**encoder, **relative, norm_rel_ebd="layer_norm", share_att_key=True)
    if name == "gpt2":
        return transformers.GPT2Config(n_embd=WIDTH, n_layer=LAYERS, n_head=HEADS, vocab_size=VOCAB, pad_token_id=0)
    if name == "llama":
        return transformers.LlamaConfig(**{**encoder, "intermediate_size": 352}, num_key_value_heads=2, pad_token_id=0)
    raise ValueError(name)


def tiny_spec(name: str, task: Task, folder: Path, **changes: object) -> ModelSpec:
    """Write ``config.json`` of a tiny model and inspect it.

    Args:
        changes: Configuration values to replace, for example ``num_hidden_layers=8``.
    """
    config = _config(name)
    for key, value in changes.items():
        setattr(config, key, value)
    path = folder / f"{name}-{task}-{len(changes)}" / "config.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(config.to_json_string(), encoding="utf-8")
    return inspect_model(str(path), task)
