"""Small configurations of architectures that name and nest their modules differently."""

from __future__ import annotations

from typing import Any

import transformers

from advisor.core.model import ModelSpec, Task

SMALL: dict[str, Any] = {
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "hidden_size": 32,
    "intermediate_size": 64,
    "vocab_size": 100,
}

CONFIGS: dict[str, transformers.PreTrainedConfig] = {
    "bert": transformers.BertConfig(**SMALL),
    "roberta": transformers.RobertaConfig(**SMALL),
    "distilbert": transformers.DistilBertConfig(dim=32, n_layers=3, n_heads=2, hidden_dim=64, vocab_size=100),
    "deberta-v2": transformers.DebertaV2Config(**SMALL, pooler_hidden_size=32),
    "electra": transformers.ElectraConfig(**SMALL, embedding_size=16),
    "albert": transformers.AlbertConfig(**SMALL, embedding_size=16),
    "modernbert": transformers.ModernBertConfig(**SMALL, pad_token_id=0),
    "llama": transformers.LlamaConfig(**SMALL, num_key_value_heads=1, tie_word_embeddings=True),
    "mistral": transformers.MistralConfig(**SMALL, num_key_value_heads=1),
    "qwen2": transformers.Qwen2Config(**SMALL, num_key_value_heads=1),
    "gemma2": transformers.Gemma2Config(**SMALL, num_key_value_heads=1, head_dim=16),
    "phi3": transformers.Phi3Config(**SMALL, pad_token_id=0),
    "gpt2": transformers.GPT2Config(n_embd=32, n_layer=3, n_head=2, vocab_size=100),
    "gpt_neox": transformers.GPTNeoXConfig(**SMALL),
    "opt": transformers.OPTConfig(
        hidden_size=32, num_hidden_layers=3, num_attention_heads=2, ffn_dim=64, vocab_size=100, word_embed_proj_dim=32
    ),
    "bloom": transformers.BloomConfig(hidden_size=32, n_layer=3, n_head=2, vocab_size=100),
    "t5": transformers.T5Config(
        d_model=32, num_layers=3, num_heads=2, d_ff=64, d_kv=16, vocab_size=100, decoder_start_token_id=0
    ),
}


def spec_of(name: str, task: Task = "sequence-classification", num_labels: int = 2) -> ModelSpec:
    """A specification without a source on disk."""
    config = CONFIGS[name]
    text = config.get_text_config()
    return ModelSpec(
        source=f"{name}.json", kind="config", task=task, config=config.to_dict() | {"num_labels": num_labels},
        model_type=config.model_type, total_parameters=50_000, hidden_size=text.hidden_size,
        num_hidden_layers=text.num_hidden_layers, vocab_size=text.vocab_size, max_positions=None, num_labels=num_labels,
    )  # fmt: skip
