"""Published configurations, and every kind of source."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSequenceClassification, BertConfig, LlamaConfig, LlamaForCausalLM

from advisor.core.errors import ModelError
from advisor.core.model import Task
from advisor.core.serialization import from_dict, to_dict
from advisor.training.models import inspect_model, load_tokenizer, source_kind

CONFIGS = Path(__file__).parents[1] / "fixtures" / "configs"
PUBLISHED: dict[str, tuple[Task, int]] = {
    "distilbert-base-uncased": ("sequence-classification", 66_955_010),
    "bert-base-uncased": ("sequence-classification", 109_483_778),
    "roberta-base": ("sequence-classification", 124_647_170),
    "deberta-v3-base": ("sequence-classification", 184_423_682),
    "llama-3.2-1b": ("causal-lm", 1_235_814_400),
    "mistral-7b-v0.1": ("causal-lm", 7_241_732_096),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameter_counts_are_the_published_ones(name: str) -> None:
    task, parameters = PUBLISHED[name]
    spec = inspect_model(str(CONFIGS / f"{name}.json"), task)
    assert spec.total_parameters == parameters
    assert (spec.kind, spec.has_weights, spec.weights_bytes) == ("config", False, 0)


def test_what_planning_reads_of_a_configuration() -> None:
    spec = inspect_model(str(CONFIGS / "distilbert-base-uncased.json"), "sequence-classification", num_labels=5)
    assert (spec.model_type, spec.hidden_size, spec.num_hidden_layers, spec.vocab_size) == ("distilbert", 768, 6, 30522)
    assert spec.total_parameters == 66_955_010 + 3 * 769
    assert (spec.num_labels, spec.config["num_labels"]) == (5, 5)


def test_position_table_of_roberta_starts_behind_its_padding_index() -> None:
    assert inspect_model(str(CONFIGS / "roberta-base.json"), "masked-lm").max_positions == 512
    assert inspect_model(str(CONFIGS / "bert-base-uncased.json"), "masked-lm").max_positions == 512
    assert inspect_model(str(CONFIGS / "llama-3.2-1b.json"), "causal-lm").max_positions == 131_072


def test_specification_survives_json() -> None:
    from advisor.core.model import ModelSpec

    spec = inspect_model(str(CONFIGS / "llama-3.2-1b.json"), "causal-lm")
    assert from_dict(ModelSpec, json.loads(json.dumps(to_dict(spec))), what="spec") == spec


def tiny_bert(folder: Path, **changes: object) -> Path:
    config = BertConfig(
        vocab_size=50, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, **changes
    )
    AutoModelForSequenceClassification.from_config(config).save_pretrained(folder)
    return folder


def test_folder_with_weights(tmp_path: Path) -> None:
    spec = inspect_model(str(tiny_bert(tmp_path)), "sequence-classification")
    assert spec.kind == "folder" and spec.has_weights
    assert spec.weights_bytes == (tmp_path / "model.safetensors").stat().st_size
    stored = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert spec.total_parameters == sum(parameter.numel() for parameter in stored.parameters())


def test_sharded_folder(tmp_path: Path) -> None:
    model = LlamaForCausalLM(
        LlamaConfig(vocab_size=50, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32)
    )
    model.save_pretrained(tmp_path, max_shard_size="5KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    assert inspect_model(str(tmp_path), "causal-lm").has_weights
    next(iter(tmp_path.glob("*.safetensors"))).unlink()
    with pytest.raises(ModelError, match="all shards"):
        inspect_model(str(tmp_path), "causal-lm")


def test_folder_without_weights_can_still_be_planned(tmp_path: Path) -> None:
    tiny_bert(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    assert not inspect_model(str(tmp_path), "sequence-classification").has_weights


def test_other_number_of_labels_drops_the_old_names(tmp_path: Path) -> None:
    tiny_bert(tmp_path, id2label={0: "bad", 1: "so-so", 2: "good"}, label2id={"bad": 0, "so-so": 1, "good": 2})
    assert inspect_model(str(tmp_path), "sequence-classification", num_labels=3).config["id2label"]["1"] == "so-so"
    two = inspect_model(str(tmp_path), "sequence-classification", num_labels=2)
    assert "id2label" not in two.config
    assert (
        two.total_parameters
        == inspect_model(str(tmp_path), "sequence-classification", num_labels=3).total_parameters - 17
    )


def test_hub_model_is_read_from_the_cache_when_offline(tmp_path: Path) -> None:
    """In a process of its own, because the cache's place and the offline switch are read on import."""
    snapshot = tmp_path / "hub" / "models--someone--tiny" / "snapshots" / "0123abc"
    snapshot.mkdir(parents=True)
    tiny_bert(snapshot)
    refs = snapshot.parents[1] / "refs"
    refs.mkdir()
    (refs / "main").write_text("0123abc")
    code = (
        "from advisor.training.models import inspect_model\n"
        "from advisor.training.build import build_model\n"
        "from advisor.core.plan import ExecutionPlan\n"
        "from advisor.strategies import get_strategy\n"
        "spec = inspect_model('someone/tiny', 'sequence-classification')\n"
        "model = build_model(spec, get_strategy('lora').configured(spec, rank=2), ExecutionPlan(micro_batch_size=1))\n"
        "print(spec.kind, spec.has_weights, spec.weights_bytes, spec.total_parameters)"
    )
    environment = os.environ | {"HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(tmp_path / "hub")}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=200, env=environment)
    assert done.returncode == 0, done.stderr
    size = (snapshot / "model.safetensors").stat().st_size
    assert done.stdout.split()[:3] == ["hub", "True", str(size)]


def test_kinds_of_source(tmp_path: Path) -> None:
    (tmp_path / "x.gguf").touch()
    (tmp_path / "config.json").touch()
    assert source_kind(str(tmp_path)) == "folder"
    assert source_kind(str(tmp_path / "x.gguf")) == "gguf"
    assert source_kind(str(tmp_path / "config.json")) == "config"
    assert source_kind("bert-base-uncased") == source_kind("google/t5") == "hub"


def tiny_gguf(path: Path) -> dict[str, torch.Tensor]:
    """A one-layer Llama in llama.cpp's format, with its tokenizer."""
    gguf = pytest.importorskip("gguf")
    writer = gguf.GGUFWriter(path, "llama")
    tokens = ["<unk>", "<s>", "</s>", *(chr(97 + i) for i in range(26)), "▁"]
    for name, value in {
        "vocab_size": len(tokens), "context_length": 64, "embedding_length": 32, "block_count": 1,
        "feed_forward_length": 64,
        "head_count": 2, "head_count_kv": 2, "rope_dimension_count": 16,
    }.items():  # fmt: skip
        getattr(writer, f"add_{name}")(value)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores([-float(i) for i in range(len(tokens))])
    writer.add_token_types([2, 3, 3] + [1] * (len(tokens) - 3))
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    generator = torch.Generator().manual_seed(0)
    shapes = {
        "token_embd.weight": (len(tokens), 32), "output_norm.weight": (32,), "output.weight": (len(tokens), 32),
        "blk.0.attn_norm.weight": (32,), "blk.0.ffn_norm.weight": (32,), "blk.0.attn_q.weight": (32, 32),
        "blk.0.attn_k.weight": (32, 32), "blk.0.attn_v.weight": (32, 32), "blk.0.attn_output.weight": (32, 32),
        "blk.0.ffn_gate.weight": (64, 32), "blk.0.ffn_up.weight": (64, 32), "blk.0.ffn_down.weight": (32, 64),
    }  # fmt: skip
    tensors = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    for name, tensor in tensors.items():
        writer.add_tensor(name, tensor.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return tensors


def test_gguf_file_is_inspected_built_and_trained(tmp_path: Path) -> None:
    from advisor.core.plan import ExecutionPlan
    from advisor.strategies import get_strategy
    from advisor.training.build import build_model

    tensors = tiny_gguf(tmp_path / "tiny.gguf")
    spec = inspect_model(str(tmp_path / "tiny.gguf"), "causal-lm")
    assert (spec.kind, spec.model_type, spec.has_weights, spec.num_hidden_layers) == ("gguf", "llama", True, 1)
    for method in ("lora", "qlora"):
        config = get_strategy(method).configured(spec, rank=2)
        model = build_model(spec, config, ExecutionPlan(micro_batch_size=1))
        embeddings = model.get_input_embeddings().weight
        torch.testing.assert_close(embeddings.detach(), tensors["token_embd.weight"])
        ids = torch.randint(3, 29, (1, 8))
        model(input_ids=ids, labels=ids).loss.backward()
        assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


def test_broken_gguf(tmp_path: Path) -> None:
    (tmp_path / "broken.gguf").write_bytes(b"GGUF" + b"\0" * 20)
    with pytest.raises(ModelError, match="whole GGUF file"):
        inspect_model(str(tmp_path / "broken.gguf"), "causal-lm")


def test_tokenizer_gets_a_pad_token(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    tiny_bert(tmp_path)
    words = Tokenizer(models.WordLevel({"<end>": 0, "a": 1}, unk_token="<end>"))
    PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<end>").save_pretrained(tmp_path)
    assert load_tokenizer(inspect_model(str(tmp_path), "sequence-classification")).pad_token == "<end>"


def test_missing_tokenizer_is_explained(tmp_path: Path) -> None:
    tiny_bert(tmp_path)
    with pytest.raises(ModelError, match="needs its tokenizer"):
        load_tokenizer(inspect_model(str(tmp_path), "sequence-classification"))
    with pytest.raises(ModelError, match="bare configuration"):
        load_tokenizer(inspect_model(str(CONFIGS / "llama-3.2-1b.json"), "causal-lm"))
