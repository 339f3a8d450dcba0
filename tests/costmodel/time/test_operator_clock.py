"""Seconds of operators: calibrated classes first, rates otherwise; and the classes themselves."""

from __future__ import annotations

import dataclasses

import pytest

from advisor.core.coefficients import Calibration, ClassFit
from advisor.core.device import DeviceProfile, Rate
from advisor.costmodel.time.device_rates import (
    ATTENTION_EFFICIENCY,
    BANDWIDTH_EFFICIENCY,
    CUDA_CORE_EFFICIENCY,
    GEMM_EFFICIENCY,
)
from advisor.costmodel.time.operator_times import OperatorClock, OperatorSeconds
from advisor.hardware import load_profile
from advisor.tracing.ops import TracedOp, class_key, op_class

FIT = ClassFit(1e-6, 1e-11, 1e-10, 4e-10, 1000, 9, 0.1, 10**9, 10**7)
PROBED = DeviceProfile(
    "cpu-x-2c",
    "x",
    "cpu",
    2**34,
    flops_per_s={"float32": Rate(1e11, "probed"), "float32/skinny": Rate(2e10, "probed")},
    bytes_per_s={"memory": Rate(1e10, "probed")},
    launch_s=5e-6,
    basis="measured",
)


ATTENTION = TracedOp("_scaled_dot_product_flash_attention.default", "forward", 10**12, 10, 10, "bfloat16")


def product(m: int, k: int, n: int, dtype: str = "float32", item: int = 4) -> TracedOp:
    return TracedOp("mm.default", "forward", 2 * m * k * n, item * (m * k + k * n), item * m * n, dtype)


def op(name: str, moved: int = 1000, dtype: str = "float32") -> TracedOp:
    return TracedOp(name, "forward", 0, moved // 2, moved - moved // 2, dtype)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("bmm.default", "bmm"),
        ("native_layer_norm_backward.default", "norm"),
        ("_fused_rms_norm.default", "norm"),
        ("_fused_adamw_.default", "optimizer_fused"),
        ("_foreach_norm.Scalar", "optimizer_foreach"),
        ("_scaled_dot_product_flash_attention_for_cpu.default", "attention"),
        ("_scaled_dot_product_efficient_attention_backward.default", "attention_backward"),
        ("bernoulli_.float", "rng"),
        ("native_dropout.default", "rng"),
        ("gelu_backward.default", "transcendental"),
        ("embedding_dense_backward.default", "embedding"),
        ("nll_loss_forward.default", "index"),
        ("_to_copy.default", "copy"),
        ("_log_softmax.default", "softmax"),
        ("gemm_4bit.default", "gemm_4bit"),
        ("dequantize_4bit.default", "quantization"),
        ("sum.dim_IntList", "reduction"),
        ("empty_like.default", "allocation"),
        ("zeros.default", "fill"),
        ("mul.Tensor", "elementwise"),
        ("something_new.default", "elementwise"),
    ],
)
def test_operators_find_their_class(name: str, kind: str) -> None:
    assert op_class(op(name)) == kind


def test_products_with_a_small_side_are_skinny() -> None:
    assert op_class(product(512, 384, 1536)) == "gemm"
    assert op_class(product(512, 384, 8)) == "gemm_skinny"
    assert op_class(product(512, 8, 384)) == "gemm_skinny"
    assert op_class(product(2, 384, 384)) == "gemm_skinny"
    assert op_class(product(512, 384, 8, "bfloat16", 2)) == "gemm_skinny"
    assert class_key(product(512, 384, 8)) == "gemm_skinny/float32/mm"


def test_a_class_fit_is_linear_with_a_break() -> None:
    assert FIT.seconds(0, 0) == 1e-6
    assert FIT.seconds(10**6, 1000) == pytest.approx(1e-6 + 1e-5 + 1e-7)
    assert FIT.seconds(0, 3000) == pytest.approx(1e-6 + 1e-7 + 8e-7)


def test_calibrated_classes_come_first_and_single_operators_before_them() -> None:
    single = dataclasses.replace(FIT, overhead_s=1.0)
    calibration = Calibration("cpu-x-2c", {}, "", {"gemm/float32": FIT}, {"gemm/float32/addmm": single})
    clock = OperatorClock(PROBED, calibration)
    assert clock.basis == "calibrated"
    by_class = clock.seconds(product(512, 384, 384))
    assert by_class == (pytest.approx(FIT.seconds(2 * 512 * 384 * 384, 4 * (512 * 384 * 2 + 384 * 384))), True)
    addmm = dataclasses.replace(product(512, 384, 384), name="addmm.default")
    assert clock.seconds(addmm)[0] > 1.0
    assert clock.seconds(op("mul.Tensor"))[1] is False


def test_rates_make_a_roofline() -> None:
    clock = OperatorClock(PROBED)
    assert clock.basis == "transferred"
    assert clock.seconds(product(1000, 1000, 1000))[0] == pytest.approx(5e-6 + 2e9 / 1e11)
    assert clock.seconds(op("mul.Tensor", 10**8))[0] == pytest.approx(5e-6 + 1e-2)
    assert clock.seconds(product(4096, 4096, 8))[0] == pytest.approx(5e-6 + 2 * 4096 * 4096 * 8 / 2e10, rel=0.02)
    assert clock.seconds(op("empty.memory_format", 10**9))[0] == 5e-6


def test_a_datasheet_is_derated() -> None:
    clock = OperatorClock(load_profile("a100-sxm4-80gb"))
    assert clock.basis == "datasheet"
    big = product(8192, 8192, 8192, "bfloat16", 2)
    assert clock.seconds(big)[0] == pytest.approx(2 * 8192**3 / (312e12 * GEMM_EFFICIENCY) + 4e-6)
    assert clock.seconds(op("add.Tensor", 10**9))[0] == pytest.approx(1e9 / (2039e9 * BANDWIDTH_EFFICIENCY) + 4e-6)
    assert clock.seconds(ATTENTION)[0] == pytest.approx(1e12 / (312e12 * ATTENTION_EFFICIENCY) + 4e-6)


def test_causal_attention_skips_half_of_what_is_counted() -> None:
    clock = OperatorClock(load_profile("a100-sxm4-80gb"))
    causal = dataclasses.replace(ATTENTION, name="_scaled_dot_product_flash_attention.causal")
    assert clock.seconds(causal)[0] - 4e-6 == pytest.approx((clock.seconds(ATTENTION)[0] - 4e-6) / 2)
    calibrated = Calibration("a100-sxm4-80gb", {}, "", {"attention/bfloat16": FIT})
    clock = OperatorClock(load_profile("a100-sxm4-80gb"), calibrated)
    assert clock.seconds(causal) == clock.seconds(ATTENTION), "a class is fitted to what is counted"


@pytest.mark.parametrize(("name", "share"), [("a100-pcie-40gb", 0.754), ("a100-pcie-80gb", 0.905)])
def test_a_power_limit_lowers_arithmetic_but_not_traffic(name: str, share: float) -> None:
    module, card = (OperatorClock(load_profile(device)) for device in (name.replace("pcie", "sxm4"), name))
    big = product(8192, 8192, 8192, "bfloat16", 2)
    assert card.seconds(big)[0] - 4e-6 == pytest.approx((module.seconds(big)[0] - 4e-6) / share, rel=1e-3)
    moved = (1e9 / (card.seconds(op("add.Tensor", 10**9))[0] - 4e-6)) / card.device.bytes_per_s["memory"].value
    assert moved == pytest.approx(BANDWIDTH_EFFICIENCY)


def test_flash_attention_2_is_slow_on_hopper() -> None:
    hopper, ampere = (OperatorClock(load_profile(name)) for name in ("h100-sxm5-80gb", "a100-sxm4-80gb"))
    seconds = hopper.seconds(ATTENTION)[0] - 4e-6
    assert seconds == pytest.approx(1e12 / (989.5e12 * 0.35))
    assert seconds < ampere.seconds(ATTENTION)[0]


def test_tf32_is_a_switch_of_the_plan() -> None:
    a100, t4 = load_profile("a100-sxm4-80gb"), load_profile("t4")
    big = product(8192, 8192, 8192)
    off, on = OperatorClock(a100).seconds(big)[0], OperatorClock(a100, tf32=True).seconds(big)[0]
    assert off / on == pytest.approx(156 / 19.5 * GEMM_EFFICIENCY / CUDA_CORE_EFFICIENCY, rel=0.01)
    assert OperatorClock(t4, tf32=True).seconds(big) == OperatorClock(t4).seconds(big), "Turing has none"
    half = product(8192, 8192, 8192, "bfloat16", 2)
    assert OperatorClock(a100, tf32=True).seconds(half) == OperatorClock(a100).seconds(half)


def test_a_probe_knows_rates_of_classes_and_kernels() -> None:
    probed = dataclasses.replace(
        PROBED,
        type="cuda",
        flops_per_s=PROBED.flops_per_s | {
            "float32/bmm": Rate(4e10, "probed"),
            "attention/flash": Rate(2e13, "probed"),
            "attention_backward/efficient": Rate(5e12, "probed"),
        },
        bytes_per_s=PROBED.bytes_per_s | {
            "softmax": Rate(5e9, "probed"),
            "copy/bfloat16": Rate(8e9, "probed"),
            "optimizer_foreach": Rate(1.0, "probed"),
        },
        overhead_s={"kernel": Rate(2e-6, "probed")},
    )  # fmt: skip
    clock = OperatorClock(probed)

    def rate(call: TracedOp, work: float) -> float:
        return work / (clock.seconds(call)[0] - 2e-6)

    batched = dataclasses.replace(product(512, 512, 512), name="bmm.default")
    assert rate(batched, batched.flops) == pytest.approx(4e10)
    assert rate(ATTENTION, 1e12) == pytest.approx(2e13)
    efficient = TracedOp(
        "_scaled_dot_product_efficient_attention_backward.default", "backward", 10**12, 9, 9, "float16"
    )
    assert rate(efficient, 1e12) == pytest.approx(5e12)
    assert rate(dataclasses.replace(efficient, dtype="float32"), 1e12) == pytest.approx(1e11), "timed in half precision"
    assert rate(op("_softmax.default", 10**8), 1e8) == pytest.approx(5e9)
    assert rate(op("clone.default", 10**8, "bfloat16"), 1e8) == pytest.approx(8e9)
    assert rate(op("clone.default", 10**8), 1e8) == pytest.approx(1e10), "float32 copies have no rate of their own"
    assert rate(op("_foreach_mul_.Scalar", 10**8), 1e8) == pytest.approx(1e10), "probed as a whole step, not per call"


def test_products_in_tf32_go_by_the_rates_although_others_are_calibrated() -> None:
    card = load_profile("a100-sxm4-80gb")
    fit = dataclasses.replace(FIT, max_flops=10**12, max_bytes=10**9)
    calibration = Calibration(card.id, {}, "", {"gemm/float32": fit, "gemm/bfloat16": fit, "norm/float32": fit})
    plain, tf32 = OperatorClock(card, calibration), OperatorClock(card, calibration, tf32=True)
    work = product(4096, 4096, 4096)
    assert plain.seconds(work) == (fit.seconds(work.flops, work.moved_bytes), True)
    assert tf32.seconds(work) == (OperatorClock(card, tf32=True).seconds(work)[0], False)
    for other in (product(512, 512, 512, "bfloat16", 2), op("native_layer_norm.default")):
        assert tf32.seconds(other) == plain.seconds(other)


def test_replays_of_flash_attention_say_nothing_where_torch_takes_cudnns() -> None:
    card = dataclasses.replace(
        load_profile("h200-sxm"), basis="measured", facts={"chosen attention": "cudnn (torch's own choice)"}
    )
    card = dataclasses.replace(card, flops_per_s=card.flops_per_s | {"attention/cudnn": Rate(5e14, "probed")})
    fit = dataclasses.replace(FIT, max_flops=10**13, max_bytes=10**9)
    clock = OperatorClock(
        card, Calibration(card.id, {}, "", {"attention/bfloat16": fit, "attention_backward/bfloat16": fit})
    )
    assert clock.seconds(ATTENTION) == (OperatorClock(card).seconds(ATTENTION)[0], False)
    backward = dataclasses.replace(ATTENTION, name="_scaled_dot_product_flash_attention_backward.default")
    assert clock.seconds(backward)[1], "its backward kernel was not probed"


def test_a_data_type_that_the_card_lacks_runs_at_float32_rate() -> None:
    clock = OperatorClock(load_profile("t4"))
    assert clock.seconds(product(4096, 4096, 4096, "bfloat16", 2))[0] == pytest.approx(
        clock.seconds(product(4096, 4096, 4096))[0], rel=0.01
    )


def test_another_devices_calibration_is_refused() -> None:
    with pytest.raises(ValueError, match="cpu-x-2c"):
        OperatorClock(PROBED, Calibration("cpu-y-4c", {}, "", {}))


def test_bags_of_operators_are_linear() -> None:
    clock = OperatorClock(PROBED)
    operators = [product(64, 64, 64), op("mul.Tensor"), dataclasses.replace(op("add.Tensor"), count=3)]
    total = clock.total(operators)
    assert total.operators == 5
    assert total.device_s == pytest.approx(sum(clock.seconds(o)[0] * o.count for o in operators))
    assert total.uncovered_s == total.device_s
    assert (total + total * 2.0).device_s == pytest.approx(3 * total.device_s)
    assert OperatorSeconds() + total == total


def test_a_probe_that_saw_torch_take_cudnns_attention_times_it_by_that() -> None:
    rates = {"bfloat16": 8e14, "attention/flash": 3e14, "attention/cudnn": 5e14, "attention/efficient": 2e14}
    probed = DeviceProfile(
        "h200", "H200", "cuda", 2**37, compute_capability=(9, 0),
        flops_per_s={key: Rate(value, "probed") for key, value in rates.items()},
        bytes_per_s={"memory": Rate(4e12, "probed")},
        basis="measured",
    )  # fmt: skip
    by_default = dataclasses.replace(probed, facts={"chosen attention": "cudnn (torch's own choice)"})
    masked = dataclasses.replace(ATTENTION, name="_scaled_dot_product_efficient_attention.default")

    def seconds(call: TracedOp, device: DeviceProfile) -> float:
        return OperatorClock(device).seconds(call)[0]

    assert seconds(ATTENTION, probed) == pytest.approx(1e12 / 3e14)
    assert seconds(ATTENTION, by_default) == pytest.approx(1e12 / 5e14)
    assert seconds(masked, by_default) == pytest.approx(1e12 / 2e14), "there torch's choice may be another one"
    with_mask = dataclasses.replace(probed, facts={"chosen attention with a mask": "cudnn (torch's own choice)"})
    assert seconds(masked, with_mask) == pytest.approx(1e12 / 5e14)
