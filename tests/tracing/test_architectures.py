"""Published architectures at full size, from ``config.json`` alone: parameters, repeated layers, predictions."""

from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from advisor.core.errors import InputError
from advisor.core.model import ModelSpec, Task
from advisor.core.plan import ExecutionPlan
from advisor.costmodel.model import CostModel
from advisor.hardware.profiles import load_profile
from advisor.strategies import get_strategy
from advisor.strategies.skeleton import attention_implementations
from advisor.tracing.full_depth import FullDepthTrace, phase_peaks
from advisor.tracing.repeated_layers import Depths, normalize_attention_window, repetition, traced_depths
from advisor.tracing.step import StepTrace, TraceRequest, trace_step
from advisor.tracing.symbolic_trace import symbolic_trace
from advisor.tracing.trace_store import TraceStore
from advisor.training.models import inspect_model
from tests.tracing.tiny import BUILDERS, main_task, only_eager, tiny_spec

CONFIGS = Path(__file__).resolve().parents[1] / "fixtures" / "configs"
CLASSIFY: Task = "sequence-classification"
MASKED: Task = "masked-lm"
LM: Task = "causal-lm"

PUBLISHED: dict[str, tuple[Task, int]] = {
    "bert-base-uncased": (MASKED, 109_514_298), "distilbert-base-uncased": (MASKED, 66_985_530),
    "roberta-base": (MASKED, 124_697_433), "xlm-roberta-base": (MASKED, 278_295_186),
    "deberta-v3-base": (CLASSIFY, 184_423_682), "deberta-v2-xxlarge": (CLASSIFY, 1_566_913_538),
    "electra-base-discriminator": (CLASSIFY, 108_891_648 + 768 * 768 + 768 + 2 * 768 + 2),
    "albert-base-v2": (MASKED, 11_221_680), "modernbert-base": (MASKED, 149_655_232), "gpt2": (LM, 124_439_808),
    "pythia-1.4b": (LM, 1_414_647_808), "starcoderbase-1b": (LM, 1_137_207_296), "llama-3.2-1b": (LM, 1_235_814_400),
    "llama-3-8b": (LM, 8_030_261_248), "mistral-7b-v0.1": (LM, 7_241_732_096),
    "mixtral-8x7b-v0.1": (LM, 46_702_792_704), "qwen2.5-7b": (LM, 7_615_616_512), "qwen3-8b-base": (LM, 8_190_735_360),
    "gemma-2-2b": (LM, 2_614_341_888), "gemma-3-1b-pt": (LM, 999_885_952),
    "phi-3-mini-4k-instruct": (LM, 3_821_079_552), "granite-3.1-2b-base": (LM, 2_533_531_648),
    "olmo-2-1124-7b": (LM, 7_298_617_344), "t5-base": ("seq2seq-lm", 222_903_552),
}  # fmt: skip
"""Parameters by the metadata of the published checkpoints (their safetensors), tied weights once; of ELECTRA the
encoder's, and a classifier's."""

REPEATED = {
    "gemma-2-2b": Depths(2, 2, 12), "gemma-3-1b-pt": Depths(8, 6, 3), "modernbert-base": Depths(4, 3, 6),
    "mixtral-8x7b-v0.1": Depths(2, 1, 30), "albert-base-v2": Depths(2, 1, 10), "t5-base": Depths(2, 1, 10),
    "deberta-v2-xxlarge": Depths(2, 1, 46),
}  # fmt: skip
TALL = {"gemma2": 6, "gemma3_text": 20, "modernbert": 13}
DEPTH_NAMES = {"distilbert": "n_layers", "t5": "num_layers", "gpt2": "n_layer", "gpt_bigcode": "n_layer"}


def published(name: str) -> ModelSpec:
    return inspect_model(str(CONFIGS / f"{name}.json"), PUBLISHED[name][0])


def kernel(model_type: str) -> str:
    return "eager" if model_type in (*only_eager(), "t5") else "sdpa"


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_are_the_published_number(name: str) -> None:
    assert published(name).total_parameters == PUBLISHED[name][1]


@pytest.mark.parametrize("name", REPEATED)
def test_layers_repeat_in_blocks(name: str) -> None:
    spec = published(name)
    lora, partial = (get_strategy(method).default_config(spec) for method in ("lora", "partial"))
    depths = traced_depths(spec, lora)
    assert depths == REPEATED[name]
    assert depths.shallow + depths.repeats * depths.block == spec.num_hidden_layers
    unfrozen = traced_depths(spec, partial)
    assert unfrozen is not None and unfrozen.shallow >= unfrozen.block + partial.knob("unfrozen_layers")
    assert (spec.num_hidden_layers - unfrozen.shallow) % unfrozen.block == 0


def test_what_does_not_repeat_is_traced_whole(tmp_path: Path) -> None:
    spec = tiny_spec("bert", CLASSIFY, tmp_path, num_hidden_layers=9)
    lora = get_strategy("lora").default_config(spec)
    assert traced_depths(spec, lora) == Depths(2, 1, 7)
    assert traced_depths(spec, lora.replaced(target_modules=("layer.3.attention.self.query",))) is None
    named = {"peft_type": "LORA", "layers_to_transform": [0, 3]}
    assert traced_depths(spec, get_strategy("peft").configured(spec, peft_config=named)) is None
    grouped = tiny_spec("albert", CLASSIFY, tmp_path, num_hidden_layers=9, num_hidden_groups=3)
    assert traced_depths(grouped, lora) is None
    mixed = ["full_attention", "sliding_attention", "sliding_attention"] + ["full_attention"] * 5
    uneven = tiny_spec("gemma2", LM, tmp_path, num_hidden_layers=8, layer_types=mixed)
    assert traced_depths(uneven, lora) == Depths(4, 1, 4)


def test_repetition() -> None:
    assert repetition(tuple("aaaa")) == (0, 1)
    assert repetition(tuple("baaaa")) == (1, 1)
    assert repetition(tuple("abababab")) == (0, 2)
    assert repetition(tuple("xssfssfssf")) == (1, 3)
    assert repetition(tuple("abcd")) is None


def predict(name: str, method: str, cache: Path, **knobs: Any) -> tuple[ModelSpec, Any]:
    spec = published(name)
    model = CostModel(load_profile("a100-sxm4-80gb"), cache_dir=cache)
    settings = {"micro_batch_size": 4, "max_seq_length": 256, "attn_implementation": kernel(spec.model_type), **knobs}
    return spec, model.estimate(spec, get_strategy(method).default_config(spec), ExecutionPlan(**settings), None)


def check_prediction(name: str, cache: Path) -> None:
    saved = name != "albert-base-v2"
    spec, cost = predict(name, "lora", cache, dtype="bfloat16", gradient_checkpointing=saved)
    assert cost.total_parameters == pytest.approx(spec.total_parameters + cost.trainable_parameters, rel=2e-3)
    assert cost.memory.breakdown.weights_bytes == pytest.approx(
        2 * (cost.total_parameters - cost.trainable_parameters) + 4 * cost.trainable_parameters, rel=0.02
    )
    assert cost.time is not None and cost.time.step_s > 0


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name == "mixtral-8x7b-v0.1" else pytest.mark.slow) for name in PUBLISHED]
)
def test_full_size_is_predicted(name: str, tmp_path: Path) -> None:
    check_prediction(name, tmp_path)


def check_depth(name: str, method: str, semantics: str, folder: Path, **knobs: Any) -> None:
    """Two shallow depths say of the tall model what its own trace says."""
    layers, length = TALL.get(name, 7), 64
    spec = tiny_spec(name, main_task(name), folder, **{DEPTH_NAMES.get(name, "num_hidden_layers"): layers})
    spec = normalize_attention_window(spec, length)
    strategy = get_strategy(method).default_config(spec)
    depths = traced_depths(spec, strategy)
    assert depths is not None
    execution = ExecutionPlan(micro_batch_size=4, attn_implementation=kernel(name), **knobs)  # type: ignore[arg-type]
    request = TraceRequest(spec, strategy, execution, 32, semantics=semantics, compute_capability=(8, 0))
    shallow, deeper, whole = (
        symbolic_trace(dataclasses.replace(request, num_hidden_layers=depth))
        for depth in (depths.shallow, depths.deeper, layers)
    )
    family, shape = FullDepthTrace(shallow, deeper, depths.repeats), (4, length, 8 if strategy.rank is not None else 1)
    peaks = family.peaks(shape, round_bytes=512)
    for phase, peak in phase_peaks(whole.events(shape), round_bytes=512).items():
        assert peaks[phase].live_bytes == pytest.approx(peak.live_bytes, abs=1024), phase
    assert family.total_parameters(8) == whole.total_parameters(8)
    operators = family.operators(shape)
    assert sum(op.flops * op.count for op in operators) == sum(
        op.flops * op.count for op in FullDepthTrace(whole).operators(shape)
    )


def test_two_shallow_depths_are_the_deep_model(tmp_path: Path) -> None:
    check_depth("gemma2", "full", "cpu", tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", BUILDERS)
@pytest.mark.parametrize("method", ["full", "lora"])
def test_two_shallow_depths_are_every_deep_model(name: str, method: str, tmp_path: Path) -> None:
    saved = method == "lora" and name != "albert"
    check_depth(name, method, "cuda", tmp_path, gradient_checkpointing=saved)


def live_peaks(trace: StepTrace) -> dict[str, int]:
    live, peaks = 0, Counter[str]()
    for sign, storage, phase in trace.recording.events:
        live += sign * trace.recording.storages[storage].size_bytes
        peaks[phase] = max(peaks[phase], live)
    return dict(peaks)


def test_lengths_on_either_side_of_a_window_are_exact(tmp_path: Path) -> None:
    spec = tiny_spec("mistral", LM, tmp_path)  # sees 32 tokens back
    strategy = get_strategy("full").default_config(spec)
    store = TraceStore("cuda", (8, 0), None)
    for length in (24, 64):
        execution = ExecutionPlan(micro_batch_size=4, max_seq_length=length, amp="bf16", padded=False)
        peaks = store.get(spec, strategy, execution).peaks((4, length, 1), round_bytes=1)
        direct = trace_step(TraceRequest(spec, strategy, execution, length, "cuda", (8, 0)))
        assert {phase: peak.live_bytes for phase, peak in peaks.items()} == live_peaks(direct)


def traced_on_cuda(spec: ModelSpec, capability: tuple[int, int] = (8, 0), **knobs: Any) -> StepTrace:
    execution = ExecutionPlan(**{"micro_batch_size": 4, "max_seq_length": 64, **knobs})
    strategy = get_strategy("full").default_config(spec)
    return trace_step(TraceRequest(spec, strategy, execution, 64, "cuda", capability))


def test_flash_attention_needs_neither_its_package_nor_a_gpu(tmp_path: Path) -> None:
    spec = tiny_spec("llama", LM, tmp_path)
    half = {"dtype": "bfloat16", "padded": False}
    package = traced_on_cuda(spec, attn_implementation="flash_attention_2", **half)
    # Without padding SDPA takes the same kernel on the same tensors.
    assert live_peaks(package) == live_peaks(traced_on_cuda(spec, attn_implementation="sdpa", **half))
    padded = traced_on_cuda(spec, attn_implementation="flash_attention_2", amp="bf16")
    assert any(op.name.startswith("_flash_attention_backward") for op in padded.recording.operators)
    with pytest.raises(InputError, match="float16 or bfloat16"):
        traced_on_cuda(spec, attn_implementation="flash_attention_2")


@pytest.mark.parametrize("capability", [(8, 0), (7, 5)])
def test_experts_are_one_product_whatever_the_routing(capability: tuple[int, int], tmp_path: Path) -> None:
    spec = tiny_spec("mixtral", LM, tmp_path)
    names = {op.name.split(".")[0] for op in traced_on_cuda(spec, capability).recording.operators}
    assert ("_grouped_mm" in names) == (capability >= (8, 0))
    assert ("grouped_mm_fallback" in names) == (capability < (8, 0))


@pytest.mark.slow
@pytest.mark.parametrize("knobs", [{}, {"dtype": "bfloat16"}, {"amp": "bf16"}], ids=str)
@pytest.mark.parametrize("name", BUILDERS)
def test_every_kernel_is_traced_for_cuda(name: str, knobs: dict[str, Any], tmp_path: Path) -> None:
    spec = tiny_spec(name, main_task(name), tmp_path)
    for implementation in attention_implementations(spec):
        if implementation == "flash_attention_2" and not knobs:
            continue
        phases = {
            op.phase for op in traced_on_cuda(spec, attn_implementation=implementation, **knobs).recording.operators
        }
        assert phases == {"forward", "backward", "optimizer", "evaluation"}
