"""The one build function: what is frozen, in which type, with which gradients, with and without weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSequenceClassification, BertConfig

from advisor.core.errors import InputError, ModelError
from advisor.core.plan import ExecutionPlan
from advisor.strategies import get_strategy, strategy_names
from advisor.strategies.skeleton import attention_implementations, usual_attention
from advisor.strategies.targets import backbone_layers
from advisor.training.build import build_model
from advisor.training.models import inspect_model
from tests.strategies.architectures import CONFIGS, spec_of
from tests.strategies.fakes import fake_device

__all__ = ["fake_device"]

EXECUTION = ExecutionPlan(micro_batch_size=2)


def execution_for(name: str, **changes: object) -> ExecutionPlan:
    return replace(EXECUTION, attn_implementation=usual_attention(spec_of(name)), **changes)


@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_every_method_trains_what_it_declares_on_every_architecture(name: str) -> None:
    spec = spec_of(name)
    for method in strategy_names():
        strategy = get_strategy(method)
        changes = {"unfrozen_layers": 1} if method == "partial" else {}
        config = strategy.configured(spec, **changes)
        model = build_model(spec, config, execution_for(name))
        trained = {path for path, parameter in model.named_parameters() if parameter.requires_grad}
        assert trained and trained == strategy.declared_trainable(model, config), method
        ids = torch.randint(3, 90, (2, 6))
        ids[:, -1] = 1  # T5 classifies at its end-of-text token
        model(input_ids=ids, labels=torch.tensor([0, 1])).loss.backward()
        missing = {path for path, p in model.named_parameters() if p.requires_grad and p.grad is None}
        assert missing == set(), method


def test_gradient_of_the_first_layers_is_not_computed_for_frozen_ones() -> None:
    spec = spec_of("bert")
    for method, wanted in {"partial": False, "head": False, "lora": True, "full": True}.items():
        config = get_strategy(method).default_config(spec)
        model = build_model(spec, config, replace(EXECUTION, gradient_checkpointing=True))
        seen = []
        model.get_input_embeddings().register_forward_hook(
            lambda _m, _i, output, seen=seen: seen.append(output.requires_grad)
        )
        model(input_ids=torch.randint(3, 90, (2, 6)), labels=torch.tensor([0, 1])).loss.backward()
        assert seen[0] is wanted, method


def test_checkpointing_recomputes_layers() -> None:
    spec, calls = spec_of("llama", "causal-lm"), []
    model = build_model(
        spec, get_strategy("lora").default_config(spec), replace(EXECUTION, gradient_checkpointing=True)
    )
    _, layers = backbone_layers(model.get_base_model())
    layers[0].self_attn.register_forward_pre_hook(lambda *_: calls.append(1))
    ids = torch.randint(3, 90, (2, 6))
    model(input_ids=ids, labels=ids).loss.backward()
    assert len(calls) == 2


def test_weights_in_the_planned_type_adapters_in_float32() -> None:
    spec = spec_of("llama", "causal-lm")
    model = build_model(spec, get_strategy("lora").default_config(spec), replace(EXECUTION, dtype="bfloat16"))
    types = {("lora_" in name, parameter.dtype) for name, parameter in model.named_parameters()}
    assert types == {(True, torch.float32), (False, torch.bfloat16)}


def test_key_value_cache_is_off_and_classifying_decoders_can_pad() -> None:
    spec = spec_of("mistral")
    model = build_model(spec, get_strategy("lora").default_config(spec), EXECUTION)
    assert model.config.use_cache is False
    assert model.config.pad_token_id == CONFIGS["mistral"].eos_token_id
    model(input_ids=torch.randint(3, 90, (3, 6)), labels=torch.tensor([0, 1, 0])).loss.backward()


@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_depth_can_be_overridden(name: str) -> None:
    spec = spec_of(name)
    with torch.device("meta"):
        model = build_model(
            spec, get_strategy("full").default_config(spec), execution_for(name), empty=True, num_hidden_layers=2
        )
    if name != "albert":
        assert len(backbone_layers(model)[1]) == 2
    assert model.config.get_text_config().num_hidden_layers == 2


def test_more_layers_than_the_configuration_has() -> None:
    spec = spec_of("gemma2", "causal-lm")
    with torch.device("meta"):
        model = build_model(
            spec, get_strategy("lora").default_config(spec), execution_for("gemma2"), empty=True, num_hidden_layers=5
        )
    assert len(backbone_layers(model)[1]) == 5


def test_flash_attention_can_be_traced_without_its_package(fake_device) -> None:
    spec = spec_of("llama", "causal-lm")
    flash = replace(EXECUTION, attn_implementation="flash_attention_2", dtype="bfloat16")
    with fake_device():
        model = build_model(spec, get_strategy("lora").default_config(spec), flash, empty=True)
    assert model.config._attn_implementation == "flash_attention_2"


def test_attention_that_an_architecture_lacks_is_an_error() -> None:
    spec = spec_of("deberta-v2")
    assert attention_implementations(spec) == ("eager",)
    assert attention_implementations(spec_of("llama")) == ("eager", "sdpa", "flash_attention_2")
    with pytest.raises(InputError, match="eager") as caught:
        build_model(spec, get_strategy("lora").default_config(spec), EXECUTION)
    assert "sdpa" in caught.value.message


def stored(folder: Path, num_labels: int = 3) -> None:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=100,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        num_labels=num_labels,
    )
    AutoModelForSequenceClassification.from_config(config).save_pretrained(folder)


def test_head_of_another_size_is_made_anew(tmp_path: Path) -> None:
    stored(tmp_path, num_labels=3)
    spec = inspect_model(str(tmp_path), "sequence-classification", num_labels=2)
    model = build_model(spec, get_strategy("full").default_config(spec), EXECUTION)
    assert model.classifier.out_features == model.config.num_labels == 2
    kept = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert torch.equal(model.bert.pooler.dense.weight, kept.bert.pooler.dense.weight)


def test_same_seed_same_model(tmp_path: Path) -> None:
    stored(tmp_path, num_labels=3)
    spec = inspect_model(str(tmp_path), "sequence-classification", num_labels=2)
    config = get_strategy("lora").default_config(spec)
    models = []
    for _ in range(2):
        torch.manual_seed(3)
        models.append(build_model(spec, config, EXECUTION))
    assert all(torch.equal(a, b) for a, b in zip(models[0].parameters(), models[1].parameters(), strict=True))


def test_stored_type_does_not_decide_the_planned_type(tmp_path: Path) -> None:
    stored(tmp_path)
    for method in ("full", "lora"):
        spec = inspect_model(str(tmp_path), "sequence-classification", num_labels=3)
        model = build_model(spec, get_strategy(method).default_config(spec), replace(EXECUTION, dtype="bfloat16"))
        assert model.get_input_embeddings().weight.dtype == torch.bfloat16


def test_no_weights_no_training(tmp_path: Path) -> None:
    stored(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    spec = inspect_model(str(tmp_path), "sequence-classification", num_labels=3)
    with pytest.raises(ModelError, match="training needs weights"):
        build_model(spec, get_strategy("full").default_config(spec), EXECUTION)


def test_untied_head_survives_saving(tmp_path: Path) -> None:
    from tests.training.reloading import load_trained

    for name, task in (
        ("llama", "causal-lm"),
        ("bert", "masked-lm"),
        ("roberta", "masked-lm"),
        ("distilbert", "masked-lm"),
    ):
        spec = spec_of(name, task)
        strategy = get_strategy("head")
        config = strategy.default_config(spec)
        model = build_model(spec, config, EXECUTION)
        with torch.no_grad():
            model.get_output_embeddings().weight.add_(1.0)
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.add_(0.1)
        ids = torch.randint(3, 90, (2, 6))
        expected = model.eval()(input_ids=ids).logits
        strategy.save(model, tmp_path / name)
        torch.testing.assert_close(
            load_trained(spec, config, EXECUTION, tmp_path / name)(input_ids=ids).logits, expected
        )


def test_whole_models_are_reloaded_without_the_base_weights(tmp_path: Path) -> None:
    from tests.training.reloading import load_trained

    stored(tmp_path / "base")
    spec = inspect_model(str(tmp_path / "base"), "sequence-classification", num_labels=3)
    for method in ("full", "partial", "head"):
        strategy = get_strategy(method)
        model = build_model(spec, strategy.default_config(spec), EXECUTION)
        strategy.save(model, tmp_path / method)
    (tmp_path / "base" / "model.safetensors").unlink()
    for method in ("full", "partial", "head"):
        reloaded = load_trained(spec, get_strategy(method).default_config(spec), EXECUTION, tmp_path / method)
        assert all(torch.isfinite(p).all() and p.device.type == "cpu" for p in reloaded.parameters())


def test_gradients_of_an_untied_masked_head(tmp_path: Path) -> None:
    spec = spec_of("bert", "masked-lm")
    model = build_model(spec, get_strategy("head").default_config(spec), EXECUTION)
    ids = torch.randint(3, 90, (2, 6))
    model(input_ids=ids, labels=ids).loss.backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
    assert model.get_input_embeddings().weight.grad is None
