"""Every method that PEFT registers is traced on an encoder and a decoder, or refused with the reason named.

What is traced is compared with the profiled Trainer step, with its symbolic family, and with the depth extrapolation.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from advisor.core.errors import InputError
from advisor.core.model import ModelSpec
from advisor.core.plan import ExecutionPlan
from advisor.core.strategy import StrategyConfig
from advisor.strategies import get_strategy
from advisor.tracing.full_depth import FullDepthTrace
from advisor.tracing.step import TraceRequest, TraceSession, trace_step
from advisor.tracing.symbolic_trace import symbolic_trace
from advisor.tracing.trace_store import TraceStore
from tests.measurement.profiled import profile_step_memory
from tests.tracing.peft_methods import (
    KINDS,
    LORA_VARIANTS,
    MODELS,
    REFUSED,
    VALUES,
    peft_strategy,
    phase_peaks_bytes,
    save_experts,
    traced_kinds,
)
from tests.tracing.tiny import tiny_spec

LENGTH = 32
EXECUTION = ExecutionPlan(micro_batch_size=4, max_seq_length=LENGTH)
TOLERANCE = 1e-3
FAMILY_TOLERANCE = 1e-4
"""A list of norms in one kernel grows with the depth by less than its storages' rounding: up to 200 bytes."""
DEEP = 7

EVERY = [(kind, model) for kind in KINDS for model in MODELS]
TRACED = [(kind, model) for model in MODELS for kind in traced_kinds(model)]
SEMANTICS = {"bert": "cpu", "llama": "cuda"}
"""The everyday suite traces each method once in either; the slow one in both on both models."""
EVERYDAY = {("VERA", "bert"), ("SHIRA", "llama"), ("PROMPT_TUNING", "bert")}
UNPROFILED = {"SHADOW"}
"""It keeps a tensor of the step before, whose release the profiler does not see."""


def _everyday(cases: list[tuple[str, str]], *, model: str) -> list[Any]:
    chosen = {case for case in EVERYDAY if case[1] == model}
    return [pytest.param(*case, marks=() if case in chosen else pytest.mark.slow) for case in cases]


@pytest.fixture(scope="module")
def specs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ModelSpec]:
    folder = tmp_path_factory.mktemp("models")
    return {name: tiny_spec(name, task, folder) for name, task in MODELS.items()}


@pytest.fixture(scope="module")
def experts(specs: dict[str, ModelSpec], tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, str]]:
    folder = tmp_path_factory.mktemp("experts")
    return {name: save_experts(spec, folder) for name, spec in specs.items()}


def _strategy(kind: str, model: str, request: pytest.FixtureRequest) -> StrategyConfig:
    if kind == "XLORA":
        return peft_strategy(kind, {"adapters": request.getfixturevalue("experts")[model]})
    return peft_strategy(kind)


@pytest.mark.parametrize(
    ("kind", "model", "semantics"),
    [
        pytest.param(kind, model, semantics, marks=() if semantics == SEMANTICS[model] else pytest.mark.slow)
        for kind, model in EVERY
        for semantics in ("cpu", "cuda")
    ],
)
def test_traced_or_refused(
    kind: str, model: str, semantics: str, specs: dict[str, ModelSpec], request: pytest.FixtureRequest
) -> None:
    asked = TraceRequest(
        specs[model],
        _strategy(kind, model, request),
        EXECUTION,
        LENGTH,
        semantics=semantics,
        num_hidden_layers=None if kind == "XLORA" else 2,  # experts have the depth they were saved with
        evaluation=False,
    )
    # What is said before anything is traced agrees with what the trace finds.
    assert bool(get_strategy("peft").problems(asked.strategy, asked.model)) == ((kind, model) in REFUSED)
    if (kind, model) in REFUSED:
        with pytest.raises(InputError, match=REFUSED[kind, model]) as caught:
            trace_step(asked)
        assert kind in str(caught.value)
        return
    trace = trace_step(asked)
    assert set(phase_peaks_bytes(trace)) >= {"weights", "forward", "backward", "optimizer"}
    assert 0 < trace.trainable_parameters < trace.total_parameters
    kinds = {storage.kind for storage in trace.recording.storages}
    assert {"weight", "optimizer_state", "gradient", "activation"} <= kinds


def test_enough_of_them_are_traced() -> None:
    """39 of 45 on the encoder and 43 on the decoder with PEFT 0.21.2; refusals name a type that exists."""
    assert len(KINDS) >= 45
    assert len(traced_kinds("bert")) >= 39
    assert len(traced_kinds("llama")) >= 43
    assert {kind for kind, _ in REFUSED} | set(VALUES) <= set(KINDS)


@pytest.mark.parametrize(
    ("kind", "model"), _everyday([case for case in TRACED if case[0] not in UNPROFILED], model="llama")
)
def test_the_peak_is_the_profiled_one(
    kind: str, model: str, specs: dict[str, ModelSpec], request: pytest.FixtureRequest
) -> None:
    _assert_profiled(specs[model], _strategy(kind, model, request))


@pytest.mark.parametrize(
    "variant", [pytest.param(v, marks=() if v == "wrapped-embeddings" else pytest.mark.slow) for v in LORA_VARIANTS]
)
def test_variants_of_lora(variant: str, specs: dict[str, ModelSpec]) -> None:
    model, values = LORA_VARIANTS[variant]
    _assert_profiled(specs[model], peft_strategy("LORA", {"r": 8, **values}))


PROMPTS = ("P_TUNING", "CPT", "PREFIX_TUNING", "CARTRIDGE")
TIED: dict[str, tuple[str, dict[str, Any]]] = {
    "tokens": ("TRAINABLE_TOKENS", {"target_modules": ["embed_tokens"], "token_indices": [0, 1, 3]}),
    "lora-tokens": ("LORA", {"r": 1, "target_modules": ["q_proj"], "trainable_token_indices": [0, 1, 3]}),
    "lora-embeddings": ("LORA", {"r": 1, "target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]}),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", TIED)
def test_embeddings_that_are_the_output_projection_too(name: str, tmp_path: Path) -> None:
    """A few trained rows cost a copy of all rows and its gradient."""
    kind, values = TIED[name]
    spec = tiny_spec("gemma3_text", "causal-lm", tmp_path, tie_word_embeddings=True)
    _assert_profiled(spec, peft_strategy(kind, values))


def test_scaled_embeddings_are_copied(tmp_path: Path) -> None:
    """Gemma scales its embeddings by a buffer whose value a fake tensor remembers; PEFT copies both."""
    spec = tiny_spec("gemma3_text", "causal-lm", tmp_path)
    request = TraceRequest(spec, peft_strategy(*TIED["lora-embeddings"]), EXECUTION, LENGTH, num_hidden_layers=1)
    with TraceSession(request) as session:
        assert session.parameter_counts()[0] > 2000 * 128


@pytest.mark.parametrize("kind", ["PROMPT_TUNING", *(pytest.param(k, marks=pytest.mark.slow) for k in PROMPTS)])
def test_learned_prompts_are_computed_like_other_tokens(kind: str, specs: dict[str, ModelSpec]) -> None:
    """The operators that times follow from are those of a direct trace of another shape."""
    request = TraceRequest(specs["llama"], peft_strategy(kind), EXECUTION, LENGTH, "cuda", (8, 0), num_hidden_layers=1)
    found = FullDepthTrace(symbolic_trace(request)).operators((6, 48, 1))
    with TraceSession(request) as session:
        expected = session.trace(6, 48).recording.operators
    assert sum(op.flops * op.count for op in found) == sum(op.flops for op in expected)


def test_rows_of_a_decomposition_on_cuda_keep_all_of_it(specs: dict[str, ModelSpec]) -> None:
    """PSOFT keeps ``Vh[:r]`` of every weight (float32): on CUDA a view of the whole matrix, on a CPU a copy."""
    width, rank = 128, 8
    asked = TraceRequest(
        specs["llama"], peft_strategy("PSOFT", {"r": rank}), EXECUTION, LENGTH, num_hidden_layers=1, evaluation=False
    )
    weights_bytes = [
        phase_peaks_bytes(trace_step(replace(asked, semantics=device)))["weights"] for device in ("cpu", "cuda")
    ]
    smaller_sides = (width, width // 2)  # of the query and the value projection
    assert weights_bytes[1] - weights_bytes[0] == sum(4 * width * (side - rank) for side in smaller_sides)


def _assert_profiled(spec: ModelSpec, strategy: StrategyConfig) -> None:
    trace = trace_step(TraceRequest(spec, strategy, EXECUTION, LENGTH, evaluation=False))
    profiled = profile_step_memory(spec, strategy, EXECUTION, LENGTH)
    assert max(phase_peaks_bytes(trace).values()) == pytest.approx(profiled.peak_bytes, rel=TOLERANCE)


@pytest.mark.parametrize("semantics", ["cpu", pytest.param("cuda", marks=pytest.mark.slow)])
@pytest.mark.parametrize(("kind", "model"), _everyday([case for case in TRACED if case[0] != "XLORA"], model="bert"))
def test_families_and_depth(kind: str, model: str, semantics: str, tmp_path: Path) -> None:
    """An unseen shape at full depth, from shallow traces at other shapes: shared banks, prompts and prefixes too."""
    spec = tiny_spec(model, MODELS[model], tmp_path, num_hidden_layers=DEEP)
    family = TraceStore(semantics, (8, 0), None).get(spec, peft_strategy(kind), EXECUTION)
    shape = (6, 48, 1)
    direct = trace_step(
        TraceRequest(
            spec, peft_strategy(kind), ExecutionPlan(micro_batch_size=6), 48, semantics, compute_capability=(8, 0)
        )
    )
    peaks = {name: peak.live_bytes for name, peak in family.peaks(shape, round_bytes=1).items()}
    assert family.deeper is not None or kind == "ADAPTION_PROMPT"
    assert peaks == pytest.approx(phase_peaks_bytes(direct), rel=FAMILY_TOLERANCE)
    assert family.trainable_parameters(1) == direct.trainable_parameters
    assert family.total_parameters(1) == direct.total_parameters


def test_prefixes_and_checkpointing_do_not_go_together(specs: dict[str, ModelSpec]) -> None:
    execution = ExecutionPlan(micro_batch_size=4, gradient_checkpointing=True)
    with pytest.raises(InputError, match="PREFIX_TUNING does not work with gradient checkpointing"):
        trace_step(TraceRequest(specs["llama"], peft_strategy("PREFIX_TUNING"), execution, LENGTH))


def test_a_missing_expert_is_named(specs: dict[str, ModelSpec]) -> None:
    with pytest.raises(InputError, match="XLORA mixes LoRA adapters that exist already"):
        trace_step(TraceRequest(specs["llama"], peft_strategy("XLORA"), EXECUTION, LENGTH))
