"""Models and configurations as people bring them: read right, or refused with the one thing that helps.

One small case of each kind; what they cost is compared with what the parts are known to weigh.
"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

from advisor import pipeline
from advisor.core.errors import InputError, ModelError
from advisor.core.plan import ExecutionPlan
from advisor.strategies.peft import PeftKnobs
from advisor.training.models import inspect_model, load_tokenizer
from tests.cli.conftest import model_dir  # noqa: F401

BERT: dict[str, Any] = {
    "model_type": "bert", "architectures": ["BertForMaskedLM"], "vocab_size": 20_000, "hidden_size": 64,
    "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 128, "max_position_embeddings": 128,
}  # fmt: skip
LLAMA: dict[str, Any] = {
    "model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": 20_000, "hidden_size": 256,
    "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 4, "intermediate_size": 512,
    "max_position_embeddings": 256, "dtype": "bfloat16", "tie_word_embeddings": False,
}  # fmt: skip
CARD = "a100-sxm4-80gb"
MIB = 2**20


def config(folder: Path, values: dict[str, Any], **changes: Any) -> str:
    path = folder / "config.json"
    path.write_text(json.dumps(values | changes))
    return str(path)


def written(folder: Path, name: str, **values: Any) -> Path:
    path = folder / name
    path.write_text(json.dumps(values))
    return path


def task_of(source: str, task: str) -> pipeline.ModelSource:
    return pipeline.ModelSource(source, task=task)


def test_an_adapter_is_named_as_such_with_its_base(tmp_path: Path) -> None:
    written(tmp_path, "adapter_config.json", peft_type="LORA", base_model_name_or_path="tide/large", r=4)
    with pytest.raises(ModelError, match="LORA adapter of tide/large") as refused:
        inspect_model(str(tmp_path), "causal-lm")
    assert "name tide/large" in str(refused.value.fix) and "--peft-config" in str(refused.value.fix)


@pytest.mark.parametrize(("method", "usable"), [("mxfp4", True), ("fp8", True), ("gptq", False), ("awq", False)])
def test_quantised_checkpoints_are_loaded_or_their_original_is_asked_for(
    tmp_path: Path, method: str, usable: bool
) -> None:
    source = config(tmp_path, LLAMA, quantization_config={"quant_method": method})
    if usable:
        assert inspect_model(source, "causal-lm").total_parameters > 0
        return
    with pytest.raises(ModelError, match=method) as refused:
        inspect_model(source, "causal-lm")
    assert "name the original model" in str(refused.value.fix)


@pytest.mark.skipif(importlib.util.find_spec("sentencepiece") is not None, reason="sentencepiece is installed")
@pytest.mark.parametrize("name", ["tokenizer.model", "spiece.model"])
def test_a_sentencepiece_tokenizer_alone_names_what_reads_it(
    tmp_path: Path,
    model_dir: Path,  # noqa: F811
    name: str,
) -> None:
    import shutil

    folder = tmp_path / "model"
    shutil.copytree(model_dir, folder)
    for file in [*folder.glob("tokenizer*"), *folder.glob("vocab*"), *folder.glob("special_tokens*")]:
        file.unlink()
    (folder / name).write_bytes(b"\x0a\x0e\x0a\x05<unk>\x15\x00\x00\x00\x00\x18\x02")
    with pytest.raises(ModelError, match="SentencePiece") as refused:
        load_tokenizer(inspect_model(str(folder), "sequence-classification"))
    assert "pip install sentencepiece protobuf" in str(refused.value.fix)


@pytest.mark.parametrize("start", ["eva", "corda"])
def test_initialisations_that_need_data_are_refused(tmp_path: Path, start: str) -> None:
    peft = {"peft_type": "LORA", "r": 4, "target_modules": ["query"], "init_lora_weights": start}
    with pytest.raises(InputError) as refused:
        pipeline.predict(
            task_of(config(tmp_path, BERT), "sequence-classification"),
            method="peft",
            knobs=PeftKnobs(peft_config=peft),
            device=CARD,
        )
    assert start in str(refused.value)


@pytest.mark.parametrize(
    ("head", "said"),
    [
        ({"id2label": {"0": "a", "1": "b", "2": "c"}}, ["head for 3 labels", "a new one for 2"]),
        ({"problem_type": "multi_label_classification"}, ["multi_label_classification", "weights are kept"]),
        ({"problem_type": "single_label_classification"}, []),
        ({"architectures": ["BertForMaskedLM"], "problem_type": "regression"}, []),
    ],
)
def test_a_checkpoint_with_another_head_is_used_with_a_word_about_it(
    tmp_path: Path, head: dict[str, Any], said: list[str]
) -> None:
    from advisor.pipeline.inputs import load_inputs

    (tmp_path / "tides.csv").write_text(
        "text,label\n" + "".join(f"low tide {i},a\nhigh tide {i},b\n" for i in range(10))
    )
    source = config(tmp_path, BERT, **{"architectures": ["BertForSequenceClassification"]} | head)
    heard: list[str] = []
    load_inputs(source, str(tmp_path / "tides.csv"), lambda event: heard.append(str(event.get("text", ""))))
    about_heads = [text for text in heard if "checkpoint's head" in text]
    assert len(about_heads) == bool(said) and all(part in about_heads[0] for part in said)


def test_keys_of_another_version_of_peft_are_dropped_with_a_word_about_it(tmp_path: Path) -> None:
    from advisor.pipeline.predicting import configure

    unknown = {"colour": None, "tides": {}}
    peft = {"peft_type": "LORA", "r": 4, "target_modules": ["query"], "exclude_modules": [], **unknown}
    heard: list[str] = []

    def configured(**more: Any) -> None:
        configure(
            task_of(config(tmp_path, BERT), "sequence-classification"),
            method="peft",
            knobs=PeftKnobs(peft_config=peft | more),
            device=CARD,
            on_event=lambda event: heard.append(str(event.get("text", ""))),
        )

    configured()
    assert [text for text in heard if "'colour', 'tides'" in text and "LoraConfig" in text]
    with pytest.raises(InputError, match="does not"):
        configured(colour="red")


def test_paths_hold_from_any_folder(
    tmp_path: Path,
    model_dir: Path,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from advisor.training.data import resolve_data

    (tmp_path / "tides.csv").write_text("text,label\nlow tide,a\nhigh tide,b\nspring tide,a\nneap tide,b\n")
    monkeypatch.chdir(model_dir.parent)
    model = inspect_model(model_dir.name, "sequence-classification")
    monkeypatch.chdir(tmp_path)
    data = resolve_data("tides.csv", task="sequence-classification", text_column="text", label_column="label")
    monkeypatch.chdir("/")
    assert Path(model.source).is_dir() and Path(data.source).is_file()


def bytes_of(source: str, task: str, *, optim: Any = "adamw_torch_fused", **options: Any) -> int:
    """Peak of a batch so short that weights and states decide."""
    execution = ExecutionPlan(1, max_seq_length=8, optim=optim, dtype="bfloat16" if task == "causal-lm" else "float32")
    cost = pipeline.predict(task_of(source, task), execution=execution, device=CARD, **options)
    return cost.memory.allocated_bytes


@pytest.mark.slow
def test_optimizers_differ_by_their_copies_of_the_parameters(tmp_path: Path) -> None:
    """Of a model whose embeddings weigh little: bitsandbytes keeps their states in 32 bits."""
    source = config(tmp_path, LLAMA, vocab_size=512, hidden_size=512, intermediate_size=2048)
    parameters_bytes = 2 * inspect_model(source, "causal-lm").total_parameters
    fused, foreach, eight_bit = (
        bytes_of(source, "causal-lm", method="full", optim=optim)
        for optim in ("adamw_torch_fused", "adamw_torch", "adamw_bnb_8bit")
    )
    assert foreach - fused == pytest.approx(parameters_bytes, rel=0.2)
    assert fused - eight_bit == pytest.approx(parameters_bytes, rel=0.2)


@pytest.mark.slow
def test_single_tokens_cost_no_copy_of_the_embeddings(tmp_path: Path) -> None:
    source = config(tmp_path, LLAMA | {"vocab_size": 100_000})
    tokens = {"peft_type": "TRAINABLE_TOKENS", "token_indices": [1, 2, 3], "target_modules": ["embed_tokens"]}
    whole = {"peft_type": "LORA", "r": 4, "target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]}
    few, all_ = (
        bytes_of(source, "causal-lm", method="peft", knobs=PeftKnobs(peft_config=peft)) for peft in (tokens, whole)
    )
    copy_bytes = 100_000 * 256 * 2
    assert all_ - few == pytest.approx(3 * copy_bytes, rel=0.05)  # the copy, and two states of AdamW for it


@pytest.mark.slow
def test_a_regular_expression_about_layers_is_about_layers(tmp_path: Path) -> None:
    def count(pattern: Any) -> int:
        peft = {"peft_type": "LORA", "r": 4, "target_modules": pattern, "task_type": "SEQ_CLS"}
        cost = pipeline.predict(
            task_of(config(tmp_path, BERT), "sequence-classification"),
            method="peft",
            knobs=PeftKnobs(peft_config=peft),
            execution=ExecutionPlan(2, max_seq_length=64),
            device=CARD,
        )
        return cost.trainable_parameters

    one_layer = 2 * 4 * (64 + 64)  # query and value, rank 4
    everywhere = count(["query", "value"])
    assert everywhere - count(r".*layer\.[0-2]\.attention\.self\.(query|value)") == one_layer
    assert everywhere - count(r".*layer\.3\.attention\.self\.(query|value)") == 3 * one_layer


@pytest.mark.slow
def test_evaluation_of_masked_text_holds_one_batch_of_logits(tmp_path: Path) -> None:
    execution = ExecutionPlan(2, max_seq_length=128, eval_batch_size=64)
    cost = pipeline.predict(
        task_of(config(tmp_path, BERT), "masked-lm"), method="full", execution=execution, device=CARD
    )
    logits_bytes = 64 * 128 * 20_000 * 4
    assert cost.memory.peak_phase == "evaluation"
    assert logits_bytes < cost.memory.allocated_bytes < 4 * logits_bytes


@pytest.mark.slow
@pytest.mark.parametrize("length", [32, 128])
def test_a_window_that_stands_twice_in_a_configuration_is_one(tmp_path: Path, length: int) -> None:
    """ModernBERT's decoders write both ``local_attention`` and the ``sliding_window`` that is half of it."""
    from transformers import ModernBertDecoderConfig

    values = ModernBertDecoderConfig(hidden_size=64, num_hidden_layers=6, num_attention_heads=4, intermediate_size=64)
    source = config(tmp_path, json.loads(values.to_json_string(use_diff=False)))
    execution = ExecutionPlan(2, max_seq_length=length, attn_implementation="sdpa")
    cost = pipeline.predict(task_of(source, "causal-lm"), method="lora", execution=execution, device=CARD)
    assert cost.memory.allocated_bytes > 0
