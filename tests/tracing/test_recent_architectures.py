"""Recent architectures by name: traced as the real Trainer steps them, at the depths and lengths that they have.

Layers that work in chunks of the text (Mamba 2, gated delta) are traced at the number of chunks of the longest row;
settings of single layers, and counts of the last ones, follow a depth that is cut.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import transformers

from advisor.core.errors import UntraceableError
from advisor.core.model import ModelSpec, Task
from advisor.core.plan import ExecutionPlan
from advisor.strategies import get_strategy
from advisor.strategies.skeleton import build_skeleton, usual_attention
from advisor.tracing.full_depth import FullDepthTrace
from advisor.tracing.repeated_layers import padded_chunks, traced_depths
from advisor.tracing.step import TraceRequest, trace_step
from advisor.tracing.symbolic_trace import LONGEST_LOOP, symbolic_trace
from advisor.training.models import inspect_model
from tests.tracing.peft_methods import phase_peaks_bytes
from tests.tracing.test_architecture_contract import check
from tests.tracing.tiny import DECODER, ENCODER

SMALL: dict[str, Any] = {**DECODER, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}
SPARSE = {"num_experts_per_tok": 1, "moe_intermediate_size": 32}
GATED = {
    "layer_types": ["linear_attention", "full_attention"], "linear_num_value_heads": 4, "linear_num_key_heads": 2,
    "linear_key_head_dim": 16, "linear_value_head_dim": 16, "head_dim": 16,
}  # fmt: skip
MAMBA = {"mamba_n_heads": 8, "mamba_d_head": 16, "mamba_d_state": 16, "mamba_expand": 2}
PER_LAYER = {"vocab_size_per_layer_input": 2000, "hidden_size_per_layer_input": 8}
GEMMA4 = {**SMALL, **PER_LAYER, "head_dim": 16, "global_head_dim": 32, "sliding_window": 4096}
ROUTED = {**SMALL, **SPARSE}

RECENT: dict[str, partial[Any]] = {
    "gemma4_text": partial(transformers.Gemma4TextConfig, **GEMMA4),
    "llama4_text": partial(
        transformers.Llama4TextConfig, **SMALL, head_dim=16, intermediate_size_mlp=128, num_local_experts=2
    ),
    "gpt_oss": partial(
        transformers.GptOssConfig, **SMALL, head_dim=16, num_local_experts=2, num_experts_per_tok=1,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
    ),
    "glm4": partial(transformers.Glm4Config, **SMALL, head_dim=16),
    "glm4_moe": partial(transformers.Glm4MoeConfig, **ROUTED, head_dim=16, n_routed_experts=2),
    "lfm2": partial(transformers.Lfm2Config, **SMALL, layer_types=["conv", "full_attention"]),
    "lfm2_moe": partial(
        transformers.Lfm2MoeConfig, **ROUTED, layer_types=["conv", "full_attention"], num_experts=2, num_dense_layers=1
    ),
    "granitemoehybrid": partial(
        transformers.GraniteMoeHybridConfig, **SMALL, **MAMBA, layer_types=["linear_attention", "full_attention"],
        num_local_experts=2, num_experts_per_tok=1, shared_intermediate_size=32,
    ),
    "phi3": partial(transformers.Phi3Config, **SMALL, partial_rotary_factor=0.75),
    "smollm3": partial(transformers.SmolLM3Config, **SMALL),
    "eurobert": partial(transformers.EuroBertConfig, **ENCODER, head_dim=32),
    "qwen3_next": partial(
        transformers.Qwen3NextConfig, **ROUTED, **GATED, num_experts=2, shared_expert_intermediate_size=32
    ),
    "qwen3_5_text": partial(transformers.Qwen3_5TextConfig, **SMALL, **GATED),
}  # fmt: skip
EVERYDAY = ("gemma4_text", "lfm2_moe", "qwen3_5_text")


def spec_of(name: str, folder: Path, **changes: Any) -> ModelSpec:
    builder = RECENT[name]
    path = folder / "config.json"
    path.write_text(builder.func(**{**builder.keywords, **changes}).to_json_string(use_diff=False))
    task: Task = "sequence-classification" if name == "eurobert" else "causal-lm"
    return inspect_model(str(path), task)


def execution_of(spec: ModelSpec, length: int) -> ExecutionPlan:
    return ExecutionPlan(2, max_seq_length=length, attn_implementation=usual_attention(spec))


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in EVERYDAY else pytest.mark.slow) for name in RECENT]
)
def test_the_traced_peak_is_the_profiled_one(name: str, tmp_path: Path) -> None:
    spec = spec_of(name, tmp_path)
    check(spec, "full", execution_of(spec, 72))


@pytest.mark.parametrize(
    ("name", "length"),
    [
        ("granitemoehybrid", 512),
        *(pytest.param("granitemoehybrid", n, marks=pytest.mark.slow) for n in (200, 600, 768)),
        *(pytest.param("qwen3_5_text", n, marks=pytest.mark.slow) for n in (40, 200)),
        *(pytest.param("qwen3_next", n, marks=pytest.mark.slow) for n in (40, 200)),
    ],
)
def test_layers_in_chunks_cost_what_the_longest_row_has(name: str, length: int, tmp_path: Path) -> None:
    spec = spec_of(name, tmp_path)
    strategy = get_strategy("full").default_config(spec)
    request = TraceRequest(spec, strategy, execution_of(spec, length), length)
    found = FullDepthTrace(symbolic_trace(request)).peaks((2, length, 1), round_bytes=1)
    direct = phase_peaks_bytes(trace_step(request))
    assert max(peak.live_bytes for peak in found.values()) == pytest.approx(max(direct.values()), rel=1e-3)


@pytest.mark.slow
def test_a_full_last_chunk_is_within_three_percent(tmp_path: Path) -> None:
    """Its padding is cut off by no copy, so that the step frees in another order."""
    spec = spec_of("qwen3_5_text", tmp_path)
    request = TraceRequest(spec, get_strategy("full").default_config(spec), execution_of(spec, 256), 256)
    found = FullDepthTrace(symbolic_trace(request)).peaks((2, 256, 1), round_bytes=1)
    direct = max(phase_peaks_bytes(trace_step(request)).values())
    assert max(peak.live_bytes for peak in found.values()) == pytest.approx(direct, rel=0.035)


def test_chunks_are_those_of_the_longest_row(tmp_path: Path) -> None:
    assert padded_chunks(spec_of("granitemoehybrid", tmp_path), 600) == (256, 3)
    assert padded_chunks(spec_of("qwen3_5_text", tmp_path), 64) == (64, 1)
    assert padded_chunks(spec_of("smollm3", tmp_path), 600) is None


@pytest.mark.slow
def test_a_loop_that_is_too_long_is_refused_with_the_length_that_works(tmp_path: Path) -> None:
    spec = spec_of("qwen3_5_text", tmp_path)
    longest = 64 * LONGEST_LOOP
    request = TraceRequest(
        spec, get_strategy("full").default_config(spec), execution_of(spec, longest + 8), longest + 8
    )
    with pytest.raises(UntraceableError, match="loops over chunks of 64 tokens") as refused:
        symbolic_trace(request)
    assert f"--max-seq-length {longest}" in str(refused.value.fix)


@pytest.mark.parametrize(("layers", "period", "shared"), [(35, 5, 20), (42, 6, 18)])
def test_gemma_4_of_any_depth_is_traced_at_few_layers(layers: int, period: int, shared: int, tmp_path: Path) -> None:
    """Overrides of single layers, and the last layers that read earlier keys and values, follow the depth."""
    kinds = ["full_attention" if layer % period == 0 else "sliding_attention" for layer in range(1, layers + 1)]
    spec = spec_of("gemma4_text", tmp_path, num_hidden_layers=layers, layer_types=kinds, num_kv_shared_layers=shared)
    depths = traced_depths(spec, get_strategy("lora").default_config(spec))
    assert depths is not None and depths.block == period and depths.deeper < layers
    whole, shallow, deeper = (
        sum(parameter.numel() for parameter in build_skeleton(spec, depth).parameters())
        for depth in (None, depths.shallow, depths.deeper)
    )
    assert whole == shallow + depths.repeats * (deeper - shallow)
