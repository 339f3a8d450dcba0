"""4-bit weights: what is stored so, that the head is not, that training goes on after an evaluation, and fakes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import bitsandbytes as bnb
import pytest
import torch
from bitsandbytes.nn.modules import Linear4bit
from torch import nn
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from advisor.core.plan import ExecutionPlan
from advisor.core.strategy import Quantization
from advisor.strategies import get_strategy
from advisor.training.build import build_base, build_model
from advisor.training.models import inspect_model
from advisor.training.quantization import quantize_linears
from tests.strategies.architectures import CONFIGS, spec_of
from tests.strategies.fakes import fake_device

__all__ = ["fake_device"]

EXECUTION = ExecutionPlan(micro_batch_size=2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bert")
    torch.manual_seed(0)
    AutoModelForSequenceClassification.from_config(CONFIGS["bert"]).save_pretrained(path)
    return path


@pytest.fixture
def spec(folder: Path):
    return inspect_model(str(folder), "sequence-classification")


def four_bit(model: nn.Module) -> set[str]:
    return {name.replace(".base_layer", "") for name, module in model.named_modules() if isinstance(module, Linear4bit)}


def storages(model: nn.Module) -> dict[str, dict[str, tuple]]:
    """Shapes and types of everything a 4-bit layer keeps."""
    found = {}
    for name, module in model.named_modules():
        if isinstance(module, Linear4bit):
            state = module.weight.quant_state
            kept = {"weight": module.weight, "absmax": state.absmax, "code": state.code, "offset": state.offset}
            kept |= {"absmax2": state.state2.absmax, "code2": state.state2.code}
            found[name] = {key: (tuple(tensor.shape), tensor.dtype) for key, tensor in kept.items()}
            found[name]["state"] = (
                tuple(state.shape),
                state.blocksize,
                state.quant_type,
                state.dtype,
                state.state2.blocksize,
            )
    return found


def test_backbone_is_stored_in_4_bits_and_the_head_is_not(spec) -> None:
    base = build_base(spec, get_strategy("qlora").default_config(spec), EXECUTION)
    stored = four_bit(base)
    assert len(stored) == 3 * 6
    assert not any("pooler" in name or "classifier" in name for name in stored)
    assert base.classifier.weight.dtype == torch.float32
    assert base.config.quantization_config.bnb_4bit_use_double_quant
    assert base.config.quantization_config.bnb_4bit_quant_type == "nf4"


def test_output_projection_of_a_language_model_is_left_alone(tmp_path: Path) -> None:
    AutoModelForCausalLM.from_config(CONFIGS["mistral"]).save_pretrained(tmp_path)
    spec = inspect_model(str(tmp_path), "causal-lm")
    base = build_base(spec, get_strategy("qlora").default_config(spec), EXECUTION)
    assert "lm_head" not in four_bit(base) and len(four_bit(base)) == 3 * 7


def test_loading_and_converting_give_the_same_model(spec) -> None:
    config = get_strategy("qlora").default_config(spec)
    loaded = build_base(spec, config, EXECUTION)
    plain = build_base(spec, get_strategy("lora").default_config(spec), EXECUTION)
    converted = quantize_linears(plain, Quantization(), sorted(four_bit(loaded)))
    assert storages(converted) == storages(loaded)
    for name, module in loaded.named_modules():
        if isinstance(module, Linear4bit):
            assert torch.equal(module.weight, converted.get_submodule(name).weight)


def test_fakes_keep_what_real_layers_keep(spec, fake_device) -> None:
    config = get_strategy("qlora").default_config(spec)
    real = build_model(spec, config, EXECUTION)
    with fake_device():
        empty = build_model(spec, config, EXECUTION, empty=True)
    assert storages(empty) == storages(real)


def test_fakes_run_forward_and_backward(spec, fake_device) -> None:
    config = get_strategy("qlora").default_config(spec)
    with fake_device():
        model = build_model(spec, config, EXECUTION, empty=True)
        ids = torch.zeros(2, 8, dtype=torch.long)
        model(input_ids=ids, labels=torch.zeros(2, dtype=torch.long)).loss.backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


def test_training_goes_on_after_an_evaluation(spec) -> None:
    """On CPUs with AVX512-BF16 an evaluation forward would re-pack the weights and break the next training step."""
    config = get_strategy("qlora").default_config(spec)
    torch.manual_seed(0)
    model = build_model(spec, config, EXECUTION)
    layers = [module for module in model.modules() if isinstance(module, bnb.nn.Linear4bit)]
    assert layers and not any(layer.support_avx512bf16_for_cpu for layer in layers)

    def gradients() -> dict[str, torch.Tensor]:
        torch.manual_seed(4)
        model.zero_grad()
        model.train()(input_ids=torch.arange(16).view(2, 8) + 3, labels=torch.tensor([0, 1])).loss.backward()
        return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}

    before = gradients()
    with torch.no_grad():
        model.eval()(input_ids=torch.arange(16).view(2, 8) + 3)
    assert not any(getattr(layer.weight.quant_state, "packing_format_for_cpu", False) for layer in layers)
    after = gradients()
    assert before.keys() == after.keys() and any("layer.0." in name for name in before)
    for name, gradient in before.items():
        torch.testing.assert_close(after[name], gradient)


def test_layers_without_bias_keep_the_gradient_of_their_input() -> None:
    """Where the trap is silent: decoders have no bias, and the first layer's adapter would stop learning."""
    spec = spec_of("mistral", "causal-lm")
    model = build_model(spec, get_strategy("qlora").default_config(spec), EXECUTION)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.fill_(0.01)
    ids = torch.randint(3, 90, (2, 8))
    with torch.no_grad():
        model.eval()(input_ids=ids)
    model.train()(input_ids=ids, labels=ids).loss.backward()
    first = {name: p.grad for name, p in model.named_parameters() if "layers.0." in name and "lora_A" in name}
    assert first and all(float(gradient.norm()) > 0 for gradient in first.values())


@pytest.mark.parametrize(
    ("device", "amp", "dtype", "expected"),
    [
        ("cpu", "none", "float32", torch.float32),
        ("cpu", "bf16", "float32", torch.float32),
        ("cuda", "bf16", "float32", torch.bfloat16),
        ("cuda", "fp16", "float32", torch.float16),
        ("cuda", "none", "bfloat16", torch.bfloat16),
    ],
)
def test_compute_type_follows_device_and_plan(spec, device: str, amp: str, dtype: str, expected: torch.dtype) -> None:
    execution = replace(EXECUTION, amp=amp, dtype=dtype)
    with torch.device("meta"):
        model = build_base(spec, get_strategy("qlora").default_config(spec), execution, device=device, empty=True)
    assert {module.compute_dtype for module in model.modules() if isinstance(module, Linear4bit)} == {expected}


def test_conv1d_weights_are_turned_round() -> None:
    """GPT-2 stores (in, out); a 4-bit layer (out, in). The converted model must still compute the same."""
    spec = spec_of("gpt2", "causal-lm")
    torch.manual_seed(0)
    plain = build_base(spec, get_strategy("lora").default_config(spec), EXECUTION).eval()
    ids = torch.randint(3, 90, (1, 8))
    expected = plain(input_ids=ids).logits
    torch.manual_seed(0)
    quantized = build_base(spec, get_strategy("qlora").default_config(spec), EXECUTION).eval()
    assert len(four_bit(quantized)) == 3 * 4
    assert float((quantized(input_ids=ids).logits - expected).norm() / expected.norm()) < 0.2


def test_import_does_not_try_to_download_kernels() -> None:
    import subprocess
    import sys

    code = "import advisor.training.quantization, peft, sys; assert sys.modules['kernels'] is None"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "kernels" not in done.stderr
