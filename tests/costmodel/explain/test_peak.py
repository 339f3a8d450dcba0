"""The peak taken apart: every byte has a kind, a role, a layer and an origin, and they add up to the prediction."""

from __future__ import annotations

import dataclasses
from dataclasses import astuple
from pathlib import Path

import pytest

from advisor.core.model import ModelSpec
from advisor.core.plan import ExecutionPlan
from advisor.core.strategy import StrategyConfig
from advisor.costmodel.explain.peak import explain_peak
from advisor.costmodel.explain.records import PeakExplanation
from advisor.hardware.backends import backend_of
from advisor.hardware.profiles import load_profile
from advisor.strategies import get_strategy
from advisor.tracing.attribution import attributed_trace
from advisor.tracing.full_depth import Peak
from advisor.tracing.step import TraceRequest
from advisor.tracing.symbolic_trace import KINDS
from advisor.tracing.trace_store import TraceStore
from tests.tracing.tiny import tiny_spec

CARD = load_profile("rtx-4090")
CPU = dataclasses.replace(CARD, id="cpu", type="cpu", compute_capability=None)
ROWS, LENGTH = 4, 64
CASES = {
    "llama lora checkpointing": ("llama", "causal-lm", "lora", CARD, {"gradient_checkpointing": True, "amp": "bf16"}),
    "llama qlora": ("llama", "causal-lm", "qlora", CARD, {"dtype": "bfloat16", "amp": "bf16"}),
    "bert full on cpu": ("bert", "sequence-classification", "full", CPU, {"attn_implementation": "eager"}),
    "bert partial accumulating": (
        "bert", "sequence-classification", "partial", CARD, {"gradient_accumulation_steps": 2},
    ),
    "gpt2 ia3": ("gpt2", "causal-lm", "ia3", CARD, {}),
}  # fmt: skip


def configured(name: str, task: str, method: str, switches: dict[str, object], folder: Path, **changes: object):
    spec = tiny_spec(name, task, folder, **changes)  # type: ignore[arg-type]
    strategy = get_strategy(method).configured(spec)
    return spec, strategy, ExecutionPlan(ROWS, max_seq_length=LENGTH, eval_batch_size=ROWS, **switches)  # type: ignore[arg-type]


def predicted_peak(spec: ModelSpec, strategy: StrategyConfig, execution: ExecutionPlan, device) -> Peak:
    """What the symbolic cost model says of the training step."""
    family = TraceStore(backend_of(device).traced_as, device.compute_capability, None).get(spec, strategy, execution)
    peaks = family.peaks((ROWS, LENGTH, strategy.rank or 1), round_bytes=backend_of(device).memory.round_bytes)
    return max((peak for phase, peak in peaks.items() if phase != "evaluation"), key=lambda peak: peak.live_bytes)


@pytest.mark.parametrize("case", CASES)
def test_every_list_adds_up_to_the_predicted_peak(case: str, tmp_path: Path):
    name, task, method, device, switches = CASES[case]
    spec, strategy, execution = configured(
        name,
        task,
        method,
        switches,
        tmp_path,
    )
    explanation = explain_peak(spec, strategy, execution, device, seq_length=LENGTH)
    peak = predicted_peak(spec, strategy, execution, device)
    names = {"weight": "weights", "optimizer_state": "optimizer states", "gradient": "gradients",
             "activation": "activations", "temporary": "temporaries"}  # fmt: skip
    expected = {names[kind]: size for kind, size in zip(KINDS, peak.by_kind, strict=True) if size}
    assert {share.name: share.live_bytes for share in explanation.by_kind} == expected
    assert explanation.live_bytes == peak.live_bytes
    for shares in (explanation.by_role, explanation.by_layer, explanation.by_module_class, explanation.by_operator):
        assert sum(share.live_bytes for share in shares) == peak.live_bytes
    timeline = explanation.timeline
    assert sum(timeline.live_bytes[timeline.peak_index]) == max(map(sum, timeline.live_bytes)) == peak.live_bytes


def test_a_deep_model_is_traced_whole(tmp_path: Path):
    spec, strategy, execution = configured("llama", "causal-lm", "lora", {}, tmp_path, num_hidden_layers=8)
    explanation = explain_peak(spec, strategy, execution, CARD, seq_length=LENGTH)
    assert explanation.num_layers == 8
    assert explanation.live_bytes == predicted_peak(spec, strategy, execution, CARD).live_bytes
    inner = [share.live_bytes for share in explanation.by_layer if share.name in ("layer 2", "layer 3", "layer 5")]
    assert len(set(inner)) == 1


def explained(name: str, task: str, method: str, tmp_path: Path, **changes: object) -> PeakExplanation:
    switches = changes.pop("switches", {})
    spec, strategy, execution = configured(name, task, method, switches, tmp_path, **changes)  # type: ignore[arg-type]
    return explain_peak(spec, strategy, execution, CARD, seq_length=LENGTH)


def test_logits_of_a_large_vocabulary_are_the_largest_activation(tmp_path: Path):
    explanation = explained("llama", "causal-lm", "lora", tmp_path, vocab_size=50_000)
    top = next(group for group in explanation.tensors if group.kind == "activations")
    assert top.role in ("logits", "gradient of logits")
    assert top.shape[-1] == 50_000 and top.dtype == "float32"
    logits = sum(share.live_bytes for share in explanation.by_role if "logits" in share.name)
    assert logits > 0.8 * dict(map(astuple, explanation.by_kind))["activations"]
    assert explanation.phase == "backward"


def test_eager_attention_scores_are_named_and_belong_to_their_layers(tmp_path: Path):
    switches = {"attn_implementation": "eager"}
    explanation = explained("bert", "sequence-classification", "full", tmp_path, switches=switches)
    roles = {share.name: share.live_bytes for share in explanation.by_role}
    heads = 4
    # Softmax and dropout output of every layer in float32, each (rows, heads, length, length).
    assert roles["attention scores"] >= 3 * 2 * ROWS * heads * LENGTH * LENGTH * 4
    assert roles["dropout mask"] > 0 and roles["MLP intermediate"] > 0
    scores = next(group for group in explanation.tensors if group.role == "attention scores")
    assert scores.shape == (ROWS, heads, LENGTH, LENGTH) and scores.count == 3
    assert scores.module == "bert.encoder.layer.*.attention.self" or "dropout" in scores.module


def test_backward_allocations_belong_to_the_module_whose_forward_made_them(tmp_path: Path):
    spec, strategy, execution = configured("bert", "sequence-classification", "full", {}, tmp_path)
    request = TraceRequest(spec, strategy, execution, LENGTH, semantics="cuda", compute_capability=(8, 0))
    recording = attributed_trace(request)
    assert len(recording.origins) == len(recording.storages)
    pairs = zip(recording.storages, recording.origins, strict=True)
    gradients = [origin for storage, origin in pairs if storage.kind == "gradient"]
    weights = {origin.module for origin in gradients}
    assert {"bert.encoder.layer.1.intermediate.dense", "bert.pooler.dense", "classifier"} <= weights
    for origin in gradients:
        if origin.module == "bert.encoder.layer.1.intermediate.dense":
            assert origin.shape in ((512, 128), (512,), (1, 512))
            assert origin.backward and not origin.recomputed


def test_checkpointing_recomputes_inside_the_backward_pass(tmp_path: Path):
    switches = {"gradient_checkpointing": True}
    spec, strategy, execution = configured("llama", "causal-lm", "lora", switches, tmp_path)
    recording = attributed_trace(TraceRequest(spec, strategy, execution, LENGTH, semantics="cuda"))
    again = [
        (origin.module, storage.phase)
        for storage, origin in zip(recording.storages, recording.origins, strict=True)
        if origin.recomputed
    ]
    assert {phase for _, phase in again} == {"backward"}
    assert all(".layers." in module for module, _ in again)
    # The stack of running modules is clean again after checkpoints that stop early.
    optimizer = [
        origin.module
        for storage, origin in zip(recording.storages, recording.origins, strict=True)
        if storage.phase == "optimizer" and storage.kind == "activation"
    ]
    assert set(optimizer) == {""}


def test_extra_micro_batches_are_counted(tmp_path: Path):
    spec, strategy, execution = configured("bert", "sequence-classification", "lora", {}, tmp_path)
    plain = explain_peak(spec, strategy, execution, CARD, seq_length=LENGTH)
    more = explain_peak(spec, strategy, execution, CARD, seq_length=LENGTH, extra_batch_bytes=12_345)
    assert more.live_bytes == plain.live_bytes + 12_345
    for shares in (more.by_kind, more.by_role, more.by_layer, more.by_module_class, more.by_operator):
        assert sum(share.live_bytes for share in shares) == more.live_bytes
    assert sum(more.timeline.live_bytes[more.timeline.peak_index]) == more.live_bytes


def test_evaluation_can_be_explained(tmp_path: Path):
    spec, strategy, execution = configured("bert", "sequence-classification", "lora", {}, tmp_path)
    execution = dataclasses.replace(execution, eval_batch_size=256)
    explanation = explain_peak(spec, strategy, execution, CARD, seq_length=LENGTH, evaluation=True)
    assert explanation.phase == "evaluation"
    assert "gradients" not in {share.name for share in explanation.by_kind}
