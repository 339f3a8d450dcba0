"""What a few traces say of a shape is what a trace of that shape says; and two shallow depths are the deep model."""

from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from advisor.core.plan import ExecutionPlan
from advisor.strategies import get_strategy
from advisor.tracing.full_depth import FullDepthTrace, OperatorFormulas, deep_operators, deep_phase_peaks, phase_peaks
from advisor.tracing.step import TraceRequest, trace_step
from advisor.tracing.symbolic import BASIS, UnfitError, fit_sizes
from advisor.tracing.symbolic_trace import PHASES, SAMPLED, SymbolicTrace, _most_varied, symbolic_trace
from advisor.tracing.trace_store import load_trace, save_trace
from tests.tracing.tiny import tiny_spec

UNSEEN = ((2, 16, 2), (16, 128, 8), (9, 256, 32))


def request(folder: Path, method: str, semantics: str, **knobs: object) -> TraceRequest:
    model = "llama" if knobs.pop("decoder", False) else "bert"
    spec = tiny_spec(model, "causal-lm" if model == "llama" else "sequence-classification", folder)
    strategy = get_strategy(method).default_config(spec)
    execution = ExecutionPlan(micro_batch_size=4, **knobs)  # type: ignore[arg-type]
    return TraceRequest(spec, strategy, execution, 32, semantics=semantics, compute_capability=(8, 0))


@pytest.mark.parametrize(
    ("method", "semantics", "knobs"),
    [
        ("lora", "cpu", {}),
        ("full", "cuda", {"amp": "bf16"}),
        ("qlora", "cuda", {"decoder": True, "padded": False, "dtype": "bfloat16", "gradient_checkpointing": True}),
    ],
)
def test_unseen_shapes_are_exact(method: str, semantics: str, knobs: dict[str, object], tmp_path: Path) -> None:
    asked = request(tmp_path, method, semantics, **knobs)
    family = symbolic_trace(asked)
    ranked = asked.strategy.rank is not None
    for batch, length, rank in UNSEEN:
        strategy = asked.strategy.replaced(rank=rank) if ranked else asked.strategy
        execution = dataclasses.replace(asked.execution, micro_batch_size=batch)
        direct = trace_step(dataclasses.replace(asked, strategy=strategy, execution=execution, seq_length=length))
        expected = _live_peaks(direct)
        symbolic = phase_peaks(family.events((batch, length, rank if ranked else 1)), round_bytes=1)
        assert {name: peak.live_bytes for name, peak in symbolic.items()} == expected
        operators = FullDepthTrace(family).operators((batch, length, rank if ranked else 1))
        assert sum(op.flops * op.count for op in operators) == sum(op.flops for op in direct.recording.operators)


def _live_peaks(trace: object) -> dict[str, int]:
    recording = trace.recording  # type: ignore[attr-defined]
    live, peaks = 0, Counter()
    for sign, storage, phase in recording.events:
        live += sign * recording.storages[storage].size_bytes
        peaks[phase] = max(peaks[phase], live)
    return dict(peaks)


@pytest.mark.parametrize(
    ("method", "semantics", "knobs"),
    [
        ("full", "cuda", {"gradient_checkpointing": True}),
        ("full", "cuda", {"optim": "adamw_torch"}),
        ("partial", "cuda", {}),
        ("lora", "cpu", {"gradient_checkpointing": True}),
        ("lora", "cuda", {"decoder": True, "gradient_accumulation_steps": 2}),
    ],
)
def test_two_shallow_depths_are_the_deep_model(
    method: str, semantics: str, knobs: dict[str, object], tmp_path: Path
) -> None:
    asked, shape, layers = request(tmp_path, method, semantics, **knobs), (4, 64, 8), 9
    shallow_layers = 2 + (asked.strategy.knob("unfrozen_layers") or 0)
    shape = shape if asked.strategy.rank is not None else (*shape[:2], 1)
    families = [
        symbolic_trace(dataclasses.replace(asked, num_hidden_layers=depth))
        for depth in (shallow_layers, shallow_layers + 1, layers)
    ]
    shallow, deeper, whole = (family.events(shape) for family in families)
    extra = layers - shallow_layers
    expected = phase_peaks(whole, round_bytes=512)
    peaks = deep_phase_peaks(shallow, deeper, extra, round_bytes=512)
    for name, peak in expected.items():
        # Lists of tensors in one optimizer kernel grow by whole blocks of 512 bytes.
        assert peaks[name].live_bytes == pytest.approx(peak.live_bytes, abs=1024), name
    operators = FullDepthTrace(families[0], families[1], extra).operators(shape)
    direct = FullDepthTrace(families[2]).operators(shape)
    assert sum(op.count for op in operators) == pytest.approx(sum(op.count for op in direct), rel=0.005)
    assert sum(op.flops * op.count for op in operators) == sum(op.flops * op.count for op in direct)
    assert sum(op.moved_bytes * op.count for op in operators) == pytest.approx(
        sum(op.moved_bytes * op.count for op in direct), rel=1e-6
    )


def test_a_family_survives_its_file(tmp_path: Path) -> None:
    family = symbolic_trace(request(tmp_path, "lora", "cpu"))
    save_trace(tmp_path / "family.npz", family)
    stored = load_trace(tmp_path / "family.npz")
    assert isinstance(stored, SymbolicTrace)
    shape = (16, 48, 4)
    assert (stored.events(shape).sizes_bytes == family.events(shape).sizes_bytes).all()
    assert FullDepthTrace(stored).operators(shape) == FullDepthTrace(family).operators(shape)


def test_a_damaged_file_is_traced_again(tmp_path: Path) -> None:
    path = tmp_path / "family.npz"
    path.write_bytes(b"PK\x03\x04 not a family")
    assert load_trace(path) is None
    assert load_trace(tmp_path / "absent.npz") is None


SHAPES = list(SAMPLED)


@given(
    st.integers(0, len(BASIS) - 1),
    st.integers(1, 10**6),
    st.tuples(st.integers(1, 64), st.integers(1, 256), st.integers(1, 64)),
)
def test_a_monomial_is_recovered(index: int, coefficient: int, unseen: tuple[int, int, int]) -> None:
    monomial = BASIS[index]
    shape = (unseen[0], 32 * unseen[1], unseen[2])  # a multiple of every pad: where roundings agree
    values = np.array([[coefficient * monomial(sampled) for sampled in SHAPES]], dtype=np.int64)
    assert int(fit_sizes(values, SHAPES)(shape)[0]) == pytest.approx(coefficient * monomial(shape), rel=1e-12)


def test_what_follows_no_formula_is_refused() -> None:
    with pytest.raises(UnfitError):
        fit_sizes(np.array([[17, 4, 93]], dtype=np.int64), SHAPES)


def test_phases_are_complete() -> None:
    assert set(PHASES) == {
        "weights",
        "states",
        "first_forward",
        "first_backward",
        "forward",
        "backward",
        "optimizer",
        "evaluation",
    }


def test_an_added_layer_is_repeated() -> None:
    layer = OperatorFormulas("forward", "mm.default", "float32", (0.0, 100.0), (10.0, 0.0), (10.0, 0.0))
    head = OperatorFormulas("forward", "mm.default", "float32", (7.0, 0.0), (1.0, 0.0), (1.0, 0.0))
    update = OperatorFormulas("optimizer", "_fused_adamw_.default", "float32", (0.0, 0.0), (50.0, 0.0), (50.0, 0.0))
    larger = dataclasses.replace(update, read_bytes=(70.0, 0.0), written_bytes=(70.0, 0.0))
    deep = deep_operators([layer, layer, head, update], [layer, layer, layer, head, larger], 4)
    assert {op.name: op for op in deep}["_fused_adamw_.default"].read_bytes == (50 + 4 * 20, 0.0)
    assert {op.flops: count for op, count in deep.items() if op.phase == "forward"} == {(0.0, 100.0): 6, (7.0, 0.0): 1}


def test_a_step_that_changes_with_its_length_names_the_operators() -> None:
    """A loop over chunks of the sequence runs more operators for longer rows."""
    chunk, rest = ["bmm.default", "sub.Tensor", "bmm.default"], ["mm.default"]
    recordings = [
        SimpleNamespace(operators=[SimpleNamespace(name=name) for name in chunk * chunks + rest]) for chunks in (1, 3)
    ]
    assert _most_varied(recordings) == " (the number of bmm, sub depends on the length)"
    assert _most_varied(recordings[:1]) == ""
