"""What is refused, why, and what allows it. Nothing here may end in anything but a ModelError."""

from __future__ import annotations

import json
import pickle
from importlib.metadata import distributions
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification, BertConfig

from advisor.core.errors import EXIT_BAD_INPUT, InputError, ModelError
from advisor.core.plan import ExecutionPlan
from advisor.strategies import get_strategy
from advisor.training.models import TOKENIZER_PACKAGES, inspect_model, load_tokenizer
from advisor.training.sources import check_safetensors, stored_quantization
from advisor.training.switches import check_execution


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    config = BertConfig(vocab_size=50, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32)
    AutoModelForSequenceClassification.from_config(config).save_pretrained(tmp_path)
    return tmp_path


def refusal(source: Path | str, task: str = "sequence-classification", **options) -> ModelError:
    with pytest.raises(ModelError) as caught:
        inspect_model(str(source), task, **options)  # type: ignore[arg-type]
    assert caught.value.exit_code == EXIT_BAD_INPUT
    return caught.value


def edit(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    values = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in values.items() if value is not None}))


@pytest.mark.parametrize(
    "source", ["./nowhere", "/nowhere/at/all", "a/b/c", "nowhere.gguf", "nowhere.json", "~/nowhere", ""]
)
def test_missing_path(source: str) -> None:
    assert "there is no model" in refusal(source).message


def test_folder_without_configuration(tmp_path: Path) -> None:
    assert "config.json must exist" in refusal(tmp_path).message


def test_other_file(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").touch()
    assert "config.json or a .gguf" in refusal(tmp_path / "model.onnx").message


@pytest.mark.parametrize("text", ["", "{", "[]", "nul", "3"])
def test_configuration_that_is_no_json_object(folder: Path, text: str) -> None:
    (folder / "config.json").write_text(text)
    refusal(folder)


def test_unknown_model_type_gets_near_matches(folder: Path) -> None:
    edit(folder, model_type="berd")
    error = refusal(folder)
    assert "'berd'" in error.message and "bert" in str(error.fix)


def test_missing_model_type(folder: Path) -> None:
    edit(folder, model_type=None)
    assert "model_type" in refusal(folder).message


def test_invalid_values_in_the_configuration(folder: Path) -> None:
    edit(folder, hidden_size=17)
    refusal(folder)
    edit(folder, hidden_size="many")
    refusal(folder)


def test_architecture_without_a_head_for_the_task(folder: Path) -> None:
    edit(folder, model_type="t5")
    assert "none for 't5'" in refusal(folder, "masked-lm").message


def test_encoder_is_no_causal_language_model(folder: Path) -> None:
    error = refusal(folder, "causal-lm")
    assert "encoder (bert)" in error.message and "masked-lm" in str(error.fix)
    edit(folder, is_decoder=True)
    assert inspect_model(str(folder), "causal-lm").task == "causal-lm"


def test_weights_that_are_quantised_already(folder: Path) -> None:
    edit(folder, quantization_config={"quant_method": "gptq", "bits": 4})
    assert "(gptq)" in refusal(folder).message


def test_unknown_task(folder: Path) -> None:
    with pytest.raises(InputError, match="there is no task 'translation'"):
        inspect_model(str(folder), "translation")


def test_one_label_is_no_classification(folder: Path) -> None:
    assert "at least two labels" in refusal(folder, num_labels=1).message
    assert "at most 1,000,000 labels" in refusal(folder, num_labels=1_000_001).message


def test_code_that_comes_with_the_model(folder: Path) -> None:
    edit(folder, model_type="their_own", auto_map={"AutoConfig": "configuration_theirs.TheirConfig"})
    (folder / "configuration_theirs.py").write_text(f"open({str(folder / 'executed')!r}, 'w')")
    error = refusal(folder)
    assert "--trust-remote-code" in str(error.fix)
    assert not (folder / "executed").exists(), "nothing of the model's code may run"


def test_code_is_run_when_it_is_allowed(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import transformers.dynamic_module_utils

    monkeypatch.setattr(transformers.dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    edit(
        folder,
        model_type="their_own",
        auto_map={
            "AutoConfig": "configuration_theirs.TheirConfig",
            "AutoModelForSequenceClassification": "modeling_theirs.TheirModel",
        },
    )
    (folder / "configuration_theirs.py").write_text(
        "from transformers import BertConfig\nclass TheirConfig(BertConfig):\n    model_type = 'their_own'\n"
    )
    (folder / "modeling_theirs.py").write_text(
        "from transformers import BertForSequenceClassification\nfrom .configuration_theirs import TheirConfig\n"
        "class TheirModel(BertForSequenceClassification):\n    config_class = TheirConfig\n"
    )
    spec = inspect_model(str(folder), "sequence-classification", trust_remote_code=True)
    assert spec.model_type == "their_own" and spec.total_parameters > 0


def to_pickle(folder: Path) -> Path:
    import torch

    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    return folder / "pytorch_model.bin"


def test_pickled_weights(folder: Path) -> None:
    to_pickle(folder)
    error = refusal(folder)
    assert "pytorch_model.bin" in error.message and "--allow-pickle" in str(error.fix)
    spec = inspect_model(str(folder), "sequence-classification", allow_pickle=True)
    assert spec.has_weights and spec.allow_pickle


def test_allowed_pickles_are_loaded(folder: Path) -> None:
    from advisor.core.plan import ExecutionPlan
    from advisor.strategies import get_strategy
    from advisor.training.build import build_model

    before = load_file(folder / "model.safetensors")
    to_pickle(folder)
    spec = inspect_model(str(folder), "sequence-classification", allow_pickle=True)
    model = build_model(spec, get_strategy("full").default_config(spec), ExecutionPlan(micro_batch_size=1))
    name = "bert.embeddings.word_embeddings.weight"
    assert (dict(model.named_parameters())[name] == before[name]).all()


def test_safetensors_beside_a_pickle_are_preferred(folder: Path) -> None:
    class Bomb:
        def __reduce__(self):
            return (open, (str(folder / "executed"), "w"))

    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb()))
    assert inspect_model(str(folder), "sequence-classification").has_weights
    assert not (folder / "executed").exists()


@pytest.mark.parametrize("kept", [0, 4, 8, 100, -1])
def test_truncated_safetensors(folder: Path, kept: int) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:kept])
    error = refusal(folder)
    assert "whole safetensors file" in error.message and str(path) in error.message


def test_trailing_bytes_and_damaged_headers(folder: Path) -> None:
    path = folder / "model.safetensors"
    whole = path.read_bytes()
    for damaged in (whole + b"x", whole[:8] + b"!" + whole[9:], b"\xff" * 8 + whole[8:]):
        path.write_bytes(damaged)
        assert "whole safetensors file" in refusal(folder).message
    path.write_bytes(whole)
    check_safetensors(path)


def test_empty_safetensors_file_is_whole(tmp_path: Path) -> None:
    save_file({}, tmp_path / "model.safetensors")
    check_safetensors(tmp_path / "model.safetensors")


def test_name_that_the_hub_cannot_give_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    error = refusal("no-such-organisation/no-such-model")
    assert "neither a path here nor a model that can be reached" in error.message
    assert "local folder" in str(error.fix)


def test_adapters_name_their_base_model(tmp_path: Path) -> None:
    values = {"peft_type": "LORA", "base_model_name_or_path": "org/base", "r": 8}
    (tmp_path / "adapter_config.json").write_text(json.dumps(values))
    found = refusal(tmp_path)
    assert f"{tmp_path} must be a model, but it is a LORA adapter of org/base" in found.message
    assert found.fix is not None
    assert found.fix.startswith("name org/base")


@pytest.mark.parametrize("method", ["gptq", "awq", "bitsandbytes", "compressed-tensors"])
def test_quantised_checkpoints_that_have_an_original(folder: Path, method: str) -> None:
    edit(folder, quantization_config={"quant_method": method})
    assert f"({method})" in refusal(folder).message


@pytest.mark.parametrize("method", ["mxfp4", "fp8"])
def test_checkpoints_that_are_dequantised_while_loading(folder: Path, method: str) -> None:
    edit(folder, quantization_config={"quant_method": method})
    spec = inspect_model(str(folder), "sequence-classification")
    assert stored_quantization(spec.config) == method
    check_execution(spec, get_strategy("lora").default_config(spec), ExecutionPlan(4), device_type="cpu", traced=True)
    with pytest.raises(InputError, match=f"are stored in {method}"):
        check_execution(
            spec, get_strategy("qlora").default_config(spec), ExecutionPlan(4), device_type="cpu", traced=True
        )


@pytest.mark.skipif(
    all(list(distributions(name=name)) for name in TOKENIZER_PACKAGES), reason="SentencePiece models can be read here"
)
@pytest.mark.parametrize("name", ["tokenizer.model", "spiece.model", "sentencepiece.bpe.model"])
def test_sentencepiece_models_name_the_packages_that_read_them(folder: Path, name: str) -> None:
    (folder / name).write_bytes(b"stub")
    with pytest.raises(ModelError, match=f"the tokenizer {name} of") as caught:
        load_tokenizer(inspect_model(str(folder), "sequence-classification"))
    assert str(caught.value.fix).startswith("pip install")
