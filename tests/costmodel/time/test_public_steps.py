"""Step times of a card that is not here, from its datasheet alone, against published measurements.

Figures: LLMFineTuningBench (Apache-2.0), Mistral-7B on one A100-SXM4-80GB, bfloat16, checkpointing, rows of 512 or
2,048 tokens.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from advisor.core.plan import ExecutionPlan
from advisor.core.strategy import StrategyConfig
from advisor.costmodel.model import CostModel
from advisor.hardware import load_profile
from advisor.training.models import inspect_model

CONFIGS = Path(__file__).resolve().parents[2] / "fixtures" / "configs"
MEASURED_S = {
    ("lora", 1, 512): 0.300,
    ("lora", 4, 512): 0.583,
    ("lora", 16, 512): 2.062,
    ("lora", 2, 2048): 1.094,
    ("full", 4, 512): 0.729,
    ("full", 4, 2048): 2.485,
}


@pytest.mark.slow
def test_a_7b_decoder_on_an_a100(tmp_path: Path) -> None:
    model = CostModel(load_profile("a100-sxm4-80gb"), cache_dir=tmp_path)
    spec = inspect_model(str(CONFIGS / "mistral-7b-v0.1.json"), "causal-lm")
    strategies = {
        "full": StrategyConfig("full", 1e-5),
        "lora": StrategyConfig("lora", 1e-4, rank=8, lora_alpha=16, lora_dropout=0.05, target_modules="attention"),
    }
    for (method, rows, length), measured_s in MEASURED_S.items():
        execution = ExecutionPlan(rows, 1, length, padded=False, gradient_checkpointing=True, dtype="bfloat16")
        step = model.step_seconds(spec, strategies[method], execution, length)
        assert step.seconds == pytest.approx(measured_s, rel=0.2), (method, rows, length)
        assert step.low < measured_s < step.high
        assert step.basis == "datasheet"
