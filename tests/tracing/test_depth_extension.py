"""A deeper stack from one trace has the formulas that three traces of it find."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from advisor.tracing.depth_extension import trace_deeper
from advisor.tracing.full_depth import FullDepthTrace
from advisor.tracing.symbolic_trace import SymbolicTrace, symbolic_trace
from tests.tracing.test_symbolic_traces import request

UNSEEN = ((4, 512, 8), (7, 72, 16))


@pytest.mark.parametrize(
    ("method", "semantics", "knobs"),
    [
        ("full", "cpu", {}),
        ("full", "cuda", {"amp": "bf16", "optim": "adamw_torch"}),
        ("partial", "cuda", {"gradient_checkpointing": True}),
        ("lora", "cuda", {"decoder": True, "gradient_accumulation_steps": 2}),
        ("qlora", "cuda", {"decoder": True, "dtype": "bfloat16", "gradient_checkpointing": True}),
        ("hira", "cpu", {}),
        ("ia3", "cpu", {"decoder": True}),
    ],
)
def test_one_trace_finds_what_three_find(method: str, semantics: str, knobs: dict[str, object], tmp_path: Path) -> None:
    asked = request(tmp_path, method, semantics, **knobs)
    layers = 2 + (asked.strategy.knob("unfrozen_layers") or 0)
    shallow = symbolic_trace(dataclasses.replace(asked, num_hidden_layers=layers))
    deeper = dataclasses.replace(asked, num_hidden_layers=layers + 1)
    found = trace_deeper(deeper, shallow)
    assert found is not None
    _assert_same(found, symbolic_trace(deeper), ranked=asked.strategy.rank is not None)


def _assert_same(found: SymbolicTrace, expected: SymbolicTrace, *, ranked: bool) -> None:
    for rows, length, rank in UNSEEN:
        shape = (rows, length, rank if ranked else 1)
        ours, theirs = found.events(shape), expected.events(shape)
        for name in ("signs", "storages", "phases", "kinds", "sizes_bytes"):
            assert np.array_equal(getattr(ours, name), getattr(theirs, name)), name
        assert FullDepthTrace(found).operators(shape) == FullDepthTrace(expected).operators(shape)
        assert found.trainable_parameters(shape[2]) == expected.trainable_parameters(shape[2])
        assert found.total_parameters(shape[2]) == expected.total_parameters(shape[2])


def test_what_is_not_unique_is_not_guessed(tmp_path: Path) -> None:
    asked = request(tmp_path, "full", "cpu")
    shallow = symbolic_trace(dataclasses.replace(asked, num_hidden_layers=2))
    formulas = shallow.storage_sizes
    # Sizes of another model: no storage of the deeper trace has an equal here.
    doubled = dataclasses.replace(formulas, coefficients=2 * formulas.coefficients)
    foreign = dataclasses.replace(shallow, storage_sizes=doubled)
    assert trace_deeper(dataclasses.replace(asked, num_hidden_layers=3), foreign) is None
