"""Datasheet step times of cards other than the A100: what their power limits and float32 units leave of a peak."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from advisor.costmodel.time import device_rates
from advisor.costmodel.time.device_rates import GEMM_EFFICIENCY, sustained_rates
from advisor.hardware import load_profile
from advisor.hardware.profiles import profile_names
from tests.costmodel.published.steps_of_other_cards import MODELS, other_cards
from tests.costmodel.published.timed import StepPredictor, errors, table


def reached(device: str, dtype: str) -> float:
    """TFLOPS that products are predicted to reach for long."""
    return sustained_rates(load_profile(device))[dtype].value * GEMM_EFFICIENCY / 1e12


def test_a_t4_is_held_by_its_70_watts():
    assert reached("t4", "float16") == pytest.approx(26.9, abs=0.1), "of 65; 24 were measured"
    assert reached("v100-sxm2-16gb", "float16") == pytest.approx(106.2, abs=0.1), "300 W leave it all"


def test_what_was_measured_of_large_products_is_not_contradicted():
    """Ceilings of bfloat16 products in TFLOPS, as measured (github.com/stas00/ml-engineering)."""
    for device, ceiling in (("a100-sxm4-80gb", 267.9), ("a100-pcie-80gb", 256.4), ("h100-sxm5-80gb", 794.5),
                            ("b200", 1745.0)):  # fmt: skip
        assert 0.85 * ceiling < reached(device, "bfloat16") < 1.12 * ceiling


def test_every_card_has_a_power_limit_and_keeps_a_third_of_its_peak():
    for device in profile_names():
        profile = load_profile(device)
        if profile.compute_capability is None:
            continue
        assert profile.power_limit_watts is not None and "power_limit_watts" in profile.sources, device
        for dtype, rate in profile.flops_per_s.items():
            assert 0.33 < sustained_rates(profile)[dtype].value / rate.value <= 1, (device, dtype)


def test_measured_rates_are_left_alone():
    probed = dataclasses.replace(load_profile("t4"), basis="measured")
    assert sustained_rates(probed) == probed.flops_per_s


def test_a_card_without_a_power_limit_keeps_its_peak():
    unknown = dataclasses.replace(load_profile("t4"), power_limit_watts=None)
    assert sustained_rates(unknown)["float16"] == unknown.flops_per_s["float16"]


@pytest.fixture(scope="module")
def predictor(tmp_path_factory: pytest.TempPathFactory) -> StepPredictor:
    return StepPredictor(Path(tmp_path_factory.mktemp("other-cards")), MODELS)


@pytest.mark.slow
def test_steps_on_other_cards(predictor: StepPredictor, monkeypatch: pytest.MonkeyPatch):
    """All rows, and without each of the two mechanisms."""
    outcomes = [predictor.outcome(row) for row in other_cards()]
    print("\n" + table(outcomes))
    total = errors(outcomes)
    assert (total.median, total.p90) < (0.10, 0.25)
    assert total.inside >= 0.9
    for device in sorted({outcome.row.device for outcome in outcomes}):
        print(f"without {device}: {errors([o for o in outcomes if o.row.device != device])}")
    for what, change in (("power limits", {"JOULES_PER_TFLOP": {}}), ("CUDA cores", {"CUDA_CORE_EFFICIENCY": 0.85})):
        with monkeypatch.context() as patch:
            for name, value in change.items():
                patch.setattr(device_rates, name, value)
            without = [StepPredictor(predictor.cache_dir, MODELS).outcome(row) for row in other_cards()]
        pairs = [pair for pair in zip(outcomes, without, strict=True) if pair[0].step.seconds != pair[1].step.seconds]
        touched, untouched = errors([pair[0] for pair in pairs]), errors([pair[1] for pair in pairs])
        cards = sorted({pair[0].row.device for pair in pairs})
        print(f"{what} ({', '.join(cards)}): {touched}; without: {untouched}; all rows without: {errors(without)}")
        assert len(cards) >= 2, "no constant that only one card uses"
        assert untouched.median > touched.median
