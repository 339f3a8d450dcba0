"""Frozen first layers are computed once: the same run without dropout, faster, and a whole model at the end."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from advisor.core.errors import InputError
from advisor.core.plan import ExecutionPlan, Plan
from advisor.core.strategy import StrategyConfig
from advisor.strategies import get_strategy
from advisor.strategies.own_weights import PartialKnobs
from advisor.training.build import build_model
from advisor.training.run_folder import RunFolder
from advisor.training.trainer import train
from tests.strategies.architectures import spec_of
from tests.training.training_runs import save_model, tiny_plan

METHODS = {"head": StrategyConfig("head", 1e-2), "partial": StrategyConfig("partial", 1e-2, knobs=PartialKnobs(1))}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With a model that has no dropout."""
    import json

    path = tmp_path_factory.mktemp("tiny")
    config = save_model(path / "model") / "config.json"
    dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    config.write_text(json.dumps(json.loads(config.read_text()) | dropout))
    return path


def plan_of(folder: Path, method: str, **execution: Any) -> Plan:
    strategy = dataclasses.replace(METHODS[method], num_train_epochs=2.0)
    return tiny_plan(folder, strategy=strategy, rows=60, **execution)


@pytest.mark.parametrize("method", METHODS)
def test_a_run_that_skips_its_frozen_layers_is_the_same_run(folder: Path, tmp_path: Path, method: str) -> None:
    switches = {"partial": {"group_by_length": True, "gradient_accumulation_steps": 2}}.get(method, {})
    usual = train(plan_of(folder, method, **switches), tmp_path / "usual")
    kept = train(plan_of(folder, method, keep_features=True, **switches), tmp_path / "kept")
    assert [loss for _, loss in kept.train_losses] == pytest.approx([loss for _, loss in usual.train_losses], rel=1e-5)
    assert kept.metrics == pytest.approx(usual.metrics, rel=1e-5)
    assert kept.parts_s["features"] > 0 and "features" not in usual.parts_s
    assert sum(kept.parts_s.values()) == pytest.approx(kept.total_s)
    assert not list((tmp_path / "kept").glob("features*")), "nothing is left behind"
    weights = [sorted(RunFolder(tmp_path / name).model.glob("*.safetensors"))[0] for name in ("usual", "kept")]
    assert_same_weights(*weights)


def assert_same_weights(one: Path, other: Path) -> None:
    import torch
    from safetensors.torch import load_file

    first, second = load_file(one), load_file(other)
    assert first.keys() == second.keys()
    for name, weight in first.items():
        if name.endswith("key.bias"):
            continue  # softmax is blind to it: its gradient is rounding, which Adam scales up
        torch.testing.assert_close(second[name], weight, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["bert", "deberta-v2", "albert", "modernbert", "llama", "gemma2", "opt", "bloom"])
def test_architectures_give_the_same_scores_from_kept_features(name: str, tmp_path: Path) -> None:
    import contextlib

    import torch

    from advisor.training.kept_prefix import kept_prefix

    spec = spec_of(name)
    eager = name in ("deberta-v2", "gemma2", "bloom")
    execution = ExecutionPlan(2, attn_implementation="eager" if eager else "sdpa", keep_features=True)
    torch.manual_seed(0)
    model = build_model(spec, METHODS["head"], execution).eval()
    rows = [{"input_ids": torch.arange(5, 5 + length).tolist()} for length in (8, 5, 8)]

    def collate(features: Any) -> dict[str, torch.Tensor]:
        lengths = [len(feature["input_ids"]) for feature in features]
        filler = [model.config.pad_token_id or 0]
        ids = [feature["input_ids"] + filler * (8 - n) for feature, n in zip(features, lengths, strict=True)]
        mask = [[1] * n + [0] * (8 - n) for n in lengths]
        return {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask)}

    prefix = kept_prefix(model)
    file, nothing = tmp_path / "features", contextlib.nullcontext
    prefix.compute([rows], collate, file, device="cpu", batch_rows=2, precision=nothing, check=lambda: None)
    prefix.rows = [2, 1]
    with torch.no_grad():
        kept = model(**collate([rows[2], rows[1]])).logits
        prefix.restore()
        usual = model(**collate([rows[2], rows[1]])).logits
    torch.testing.assert_close(kept, usual, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("task", "strategy", "words"),
    [
        ("sequence-classification", StrategyConfig("full", 1e-3), "freezes none"),
        ("sequence-classification", StrategyConfig("partial", 1e-3, knobs=PartialKnobs(3)), "freezes none"),
        ("masked-lm", METHODS["partial"], "masks them anew"),
    ],
)
def test_what_has_nothing_to_keep_is_refused(task: str, strategy: StrategyConfig, words: str) -> None:
    with pytest.raises(InputError, match=words):
        build_model(spec_of("bert", task), strategy, ExecutionPlan(2, keep_features=True))
    assert get_strategy("lora").frozen_first_layers(None, strategy) == 0  # type: ignore[arg-type]
