"""Pruned adapters without their zeros: the same weights, the same outputs, a smaller file."""

from __future__ import annotations

from pathlib import Path

import peft
import pytest
import torch
import transformers
from safetensors.torch import load, save

from advisor.measurement.sparse_export import export_bytes, in_sparse_format, packed, unpacked
from advisor.strategies.sparsity import adapter_weights, prune_
from tests.tracing.tiny import BUILDERS


def pruned_model(sparsity: float, dtype: torch.dtype = torch.float32) -> peft.PeftModel:
    torch.manual_seed(0)
    base = transformers.AutoModelForSequenceClassification.from_config(BUILDERS["bert"]()).to(dtype)
    model = peft.get_peft_model(base, peft.LoraConfig(task_type="SEQ_CLS", r=16, target_modules=["query", "value"]))
    with torch.no_grad():
        for weight in adapter_weights(model):
            weight.normal_()
            prune_(weight, sparsity)
    return model.eval()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_packed_weights_come_back_equal(dtype: torch.dtype) -> None:
    torch.manual_seed(1)
    weights = {"odd": torch.randn(7, 13).to(dtype), "empty": torch.zeros(3, 5, dtype=dtype), "full": torch.ones(1, 9)}
    weights["odd"][weights["odd"] < 0] = 0
    back = unpacked(load(save(packed(weights))))
    assert {name: w.dtype for name, w in back.items()} == {name: w.dtype for name, w in weights.items()}
    assert all(torch.equal(back[name], weight) for name, weight in weights.items())


def test_half_of_the_weights_take_half_of_the_file() -> None:
    dense, sparse = export_bytes(pruned_model(0.5))
    assert 0.5 < sparse / dense < 0.6  # a bit for each of 32, names, and half of the values
    dense, sparse = export_bytes(pruned_model(0.0))
    assert sparse > dense, "nothing to leave out"


def test_the_sparse_format_gives_the_same_outputs_and_leaves_no_trace() -> None:
    model = pruned_model(0.7)
    inputs = {"input_ids": torch.randint(2, 100, (3, 12)), "attention_mask": torch.ones(3, 12, dtype=torch.long)}
    before = {name: type(module) for name, module in model.named_modules()}
    with torch.no_grad():
        dense = model(**inputs).logits
        with in_sparse_format(model):
            changed = [name for name, module in model.named_modules() if type(module) is not before.get(name)]
            sparse = model(**inputs).logits
        again = model(**inputs).logits
    assert len(changed) == 3 * 2 * 2
    torch.testing.assert_close(sparse, dense, rtol=1e-5, atol=1e-5)
    assert torch.equal(again, dense)
    assert {name: type(module) for name, module in model.named_modules()} == before


def test_adapters_that_are_saved_are_those_that_are_packed(tmp_path: Path) -> None:
    model = pruned_model(0.5)
    model.save_pretrained(tmp_path)
    saved = load((tmp_path / "adapter_model.safetensors").read_bytes())
    factors = {name: weight for name, weight in saved.items() if ".lora_" in name}
    back = unpacked(load(save(packed(factors))))
    assert all(torch.equal(back[name], weight) for name, weight in factors.items())
