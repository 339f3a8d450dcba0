"""Every architecture that transformers can put a causal or a classification head on is traced or refused in words.

Two layers of each configuration's defaults; nothing is allocated, so the size does not matter.
"""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import Literal

import pytest
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from advisor.core.errors import AdvisorError, ModelError, UntraceableError
from advisor.core.model import Task
from advisor.core.plan import ExecutionPlan
from advisor.strategies import get_strategy
from advisor.strategies.skeleton import set_depth, usual_attention
from advisor.tracing.repeated_layers import traced_depths
from advisor.tracing.step import TraceRequest, trace_step
from advisor.training.models import inspect_model
from tests.tracing.tiny import tiny_spec

LAYERS = 2
LENGTH = 32
AUTO_CLASSES: dict[Task, type] = {
    "causal-lm": AutoModelForCausalLM,
    "sequence-classification": AutoModelForSequenceClassification,
}
Outcome = Literal["traced", "refused", "not built"]


def registered() -> list[tuple[Task, str]]:
    """Task and model type of every pair that transformers has a head for."""
    known = set(CONFIG_MAPPING.keys())
    return [
        (task, model_type)
        for task, auto in AUTO_CLASSES.items()
        for model_type in sorted({config.model_type for config in auto._model_mapping} & known)  # type: ignore[attr-defined]
    ]


def write_config(model_type: str, folder: Path) -> Path:
    """The configuration class's defaults, with fewer layers where it lets itself be shortened."""
    config = CONFIG_MAPPING[model_type]()
    with contextlib.suppress(Exception):
        set_depth(config.get_text_config(), LAYERS)
    path = folder / f"{model_type}.json"
    path.write_text(json.dumps(json.loads(config.to_json_string(use_diff=False))), encoding="utf-8")
    return path


def outcome(task: Task, model_type: str, method: str, folder: Path) -> tuple[Outcome, str]:
    """What becomes of one architecture; anything but a trace or a refusal in words is raised."""
    try:
        path = write_config(model_type, folder)
    except Exception as failure:  # defaults that are no configuration: nothing that a user could name
        return "not built", str(failure)
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            spec = inspect_model(str(path), task)
            strategy = get_strategy(method).default_config(spec)
            traced_depths(spec, strategy)
            kernel = usual_attention(spec)
            execution = ExecutionPlan(micro_batch_size=2, max_seq_length=LENGTH, attn_implementation=kernel)
            trace_step(TraceRequest(spec, strategy, execution, LENGTH, semantics="cpu"))
    except ModelError as refusal:
        return "not built", refusal.message
    except AdvisorError as refusal:
        return "refused", refusal.message
    return "traced", ""


@pytest.mark.slow
@pytest.mark.parametrize(("task", "model_type"), registered())
def test_traced_or_refused(task: Task, model_type: str, tmp_path: Path) -> None:
    result, why = outcome(task, model_type, "full", tmp_path)
    assert result == "traced" or why


@pytest.mark.parametrize("model_type", ["falcon", "opt", "bloom"])
def test_decoders_beyond_the_list(model_type: str, tmp_path: Path) -> None:
    assert outcome("causal-lm", model_type, "lora", tmp_path) == ("traced", "")


def test_a_refusal_names_operator_and_module(tmp_path: Path) -> None:
    spec = tiny_spec("t5", "sequence-classification", tmp_path)
    execution = ExecutionPlan(micro_batch_size=2, max_seq_length=LENGTH, attn_implementation="eager")
    with pytest.raises(UntraceableError, match=r"modeling_t5:forward.*unique_consecutive") as refused:
        trace_step(TraceRequest(spec, get_strategy("full").default_config(spec), execution, LENGTH))
    assert "eager" not in str(refused.value.fix), "that was followed already"
