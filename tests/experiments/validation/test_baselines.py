"""The two rules of thumb, computed by hand."""

from __future__ import annotations

import dataclasses

import pytest

from advisor.core.device import DeviceProfile, Rate
from advisor.experiments.validation.baselines import computed_parameters, rule_of_thumb_s, step_work
from advisor.experiments.validation.cases import grid_model
from advisor.experiments.validation.compare import compare_times
from advisor.experiments.validation.records import TracedWork
from advisor.tracing.ops import StepPhase, TracedOp
from tests.experiments.validation.records import timed

DEVICE = DeviceProfile(
    id="cpu-test",
    name="a CPU",
    type="cpu",
    memory_bytes=2**30,
    flops_per_s={"float32": Rate(1e9, "probed"), "bfloat16": Rate(4e9, "probed")},
    bytes_per_s={"memory": Rate(1e8, "probed")},
)
MODEL = grid_model("bert-small")


def op(name: str, phase: StepPhase, flops: int, moved: int, dtype: str = "float32", count: int = 1) -> TracedOp:
    return TracedOp(f"{name}.default", phase, flops, moved, 0, dtype, count=count)


STEP = [
    op("addmm", "forward", 2 * 10**9, 10**7),  # 2 s of arithmetic, 0.1 s of traffic
    op("mm", "backward", 4 * 10**9, 10**7, "bfloat16", count=2),  # 1 s each
    op("add", "backward", 10**6, 10**8),  # 1 s of traffic
    op("empty", "forward", 0, 10**12),  # an allocation moves nothing
    op("_fused_adamw_", "optimizer", 10**6, 5 * 10**7),  # 0.5 s of traffic
    op("addmm", "evaluation", 10**12, 1),
    op("addmm", "weights", 10**12, 1),
]


def test_the_roofline_takes_the_slower_ceiling_of_every_operator() -> None:
    work = step_work(STEP, 1, DEVICE, MODEL)
    assert work.roofline_s == pytest.approx(2 + 2 * 1 + 1 + 0.5)
    assert work.operators == 6
    assert work.flops == {"float32": 2 * 10**9 + 2 * 10**6, "bfloat16": 8 * 10**9}
    assert work.moved_bytes == 10**7 + 2 * 10**7 + 10**8 + 5 * 10**7


def test_accumulation_repeats_all_but_the_update_and_the_first_micro_batch() -> None:
    assert step_work(STEP, 3, DEVICE, MODEL).roofline_s == pytest.approx(3 * 5 + 0.5)
    first = [op("addmm", "first_forward", 10**9, 1), op("mm", "first_backward", 10**9, 1)]
    assert step_work([*first, *STEP], 3, DEVICE, MODEL).roofline_s == pytest.approx(2 + 2 * 5 + 0.5)


def test_a_device_without_rates_has_no_roofline() -> None:
    bare = dataclasses.replace(DEVICE, flops_per_s={}, bytes_per_s={})
    assert step_work(STEP, 1, bare, MODEL).roofline_s is None
    assert step_work(STEP, 1, bare, MODEL).flops["bfloat16"] == 8 * 10**9


def test_embeddings_that_are_only_looked_up_do_not_compute() -> None:
    encoder, decoder = MODEL, grid_model("llama-8x512")
    assert computed_parameters(encoder) == encoder.total_parameters - 30522 * 256
    assert computed_parameters(decoder) == decoder.total_parameters  # tied: it is the output projection
    untied = dataclasses.replace(decoder, config={**decoder.config, "tie_word_embeddings": False})
    assert computed_parameters(untied) == decoder.total_parameters - 32000 * 512
    assert computed_parameters(grid_model("llama-8x512", "sequence-classification")) < 30_000_000


@pytest.mark.parametrize(
    ("method", "execution", "seconds"),
    [
        ("full", {}, 6.0),
        ("partial", {}, 6.0),
        ("lora", {}, 4.0),
        ("ia3", {"gradient_checkpointing": True}, 6.0),
        ("head", {}, 2.0),
        ("full", {"gradient_checkpointing": True}, 8.0),
        ("full", {"gradient_accumulation_steps": 3}, 18.0),
        ("full", {"amp": "bf16"}, 1.5),
        ("full", {"dtype": "bfloat16"}, 1.5),
        ("full", {"dtype": "float16"}, 6.0),
    ],
)
def test_six_times_parameters_times_tokens(method: str, execution: dict[str, object], seconds: float) -> None:
    work = TracedWork(1, {}, 1, 10**6, None)
    case = timed("a", 1.0, rows=10, length=100, method=method, execution=execution, work=work)
    assert rule_of_thumb_s(case, DEVICE) == pytest.approx(seconds)


def test_the_best_factor_is_shown_beside_the_plain_rule() -> None:
    cases = [
        timed(str(i), measured_s, 1.1 * measured_s, rows=i + 1, work=TracedWork(1, {}, 1, 1, roofline_s))
        for i, (measured_s, roofline_s) in enumerate(((1.0, 0.5), (2.0, 1.0), (3.0, 1.2)))
    ]
    rows = {row.value: row for row in compare_times(cases, "cpu").errors if row.by == "baseline"}
    assert list(rows) == ["advisor", "advisor, x 0.91", "two-ceiling roofline", "two-ceiling roofline, x 2.00"]
    plain, scaled = rows["two-ceiling roofline"], rows["two-ceiling roofline, x 2.00"]
    assert (plain.p50, plain.max) == (pytest.approx(0.5), pytest.approx(0.6))
    assert (scaled.p50, scaled.max) == (pytest.approx(0.0), pytest.approx(0.2))
    with_rates = {row.value for row in compare_times(cases, "cpu", DEVICE).errors}
    assert "6 x parameters x tokens / peak" in with_rates
