"""Shipped profiles, and loading by name."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from advisor.core.device import DeviceProfile, Rate
from advisor.core.errors import DeviceError
from advisor.core.store import resource_dir, user_data_dir
from advisor.hardware.profiles import (
    fitted_path,
    forget_fitted,
    load_profile,
    profile_names,
    save_fitted,
    save_profile,
    slug,
    this_device,
)

SHIPPED = sorted(path.stem for path in resource_dir("profiles").glob("*.json"))


@pytest.fixture
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ADVISOR_HOME", str(tmp_path))
    return tmp_path


PROMISED = {
    *("t4", "l4", "l40", "l40s", "a10", "a10g", "b200", "h200-sxm", "mi300x", "h100-pcie-80gb", "h100-sxm5-80gb"),
    *("a100-pcie-40gb", "a100-sxm4-40gb", "a100-pcie-80gb", "a100-sxm4-80gb", "v100-sxm2-16gb", "v100-sxm2-32gb"),
    *("rtx-2080-ti", "rtx-3060", "rtx-3080", "rtx-3090", "rtx-4060", "rtx-4060-ti", "rtx-4070", "rtx-4080"),
    *("rtx-4090", "rtx-5080", "rtx-5090", "rtx-a4000", "rtx-a5000", "rtx-a6000", "rtx-6000-ada"),
}
SOLD_GB = {
    **{"t4": 16, "l4": 24, "l40": 48, "l40s": 48, "a10": 24, "a10g": 24, "b200": 180, "h200-sxm": 141, "mi300x": 192},
    **{"rtx-2080-ti": 11, "rtx-3060": 12, "rtx-3080": 10, "rtx-3090": 24, "rtx-4060": 8, "rtx-4060-ti": 8},
    **{"rtx-4070": 12, "rtx-4080": 16, "rtx-4090": 24, "rtx-5080": 16, "rtx-5090": 32},
    **{"rtx-a4000": 16, "rtx-a5000": 24, "rtx-a6000": 48, "rtx-6000-ada": 48},
}
"""What the box says; ids that end in a size say it themselves."""
MARKETED_IN_DECIMAL = {"b200", "h200-sxm"}
"""Sold by 10^9 bytes, so the box may say less than the driver."""


def sold_bytes(name: str) -> int:
    gigabytes = SOLD_GB.get(name) or int(name.rsplit("-", 1)[-1].removesuffix("gb"))
    return int(gigabytes * (1e9 if name in MARKETED_IN_DECIMAL else 2**30))


def test_the_promised_cards_are_there() -> None:
    shipped = {load_profile(name).id for name in SHIPPED if load_profile(name).basis == "datasheet"}
    assert shipped >= PROMISED
    assert len(shipped) >= 29


@pytest.mark.parametrize("name", SHIPPED)
def test_every_number_of_a_shipped_profile_has_a_source(name: str) -> None:
    profile = load_profile(name)
    assert profile.id == name
    rates = {**profile.flops_per_s, **profile.bytes_per_s}
    cpu = profile.type == "cpu"
    assert {"float32", "memory", "storage" if cpu else "host_to_device"} <= set(rates)
    for key, rate in rates.items():
        assert rate.value > 0
        assert len(rate.source) > 15, key
    numbers = ["memory_bytes", "context_bytes", "launch_s", "dtypes", "attention_kernels"]
    numbers += [] if cpu else ["compute_capability", "workspace_bytes"]
    numbers += ["context_interval_bytes"] if profile.basis == "datasheet" else []
    for field in numbers:
        assert getattr(profile, field), field
        assert len(profile.sources[field]) > 15, field
    assert set(profile.sources) <= {field.name for field in dataclasses.fields(profile)}


@pytest.mark.parametrize("name", sorted(PROMISED | {"rtx-4060-ti-16gb"}))
def test_capability_decides_dtypes_kernels_and_workspace(name: str) -> None:
    profile = load_profile(name)
    capability = profile.compute_capability
    assert capability is not None
    ampere = capability >= (8, 0)
    assert profile.dtypes == ("float32", "float16", *(["bfloat16"] if ampere else []))
    assert profile.attention_kernels == ("math", "efficient", *(["flash"] if ampere else []))
    assert set(profile.flops_per_s) == {*profile.dtypes, *(["tf32"] if ampere else [])}
    hip = name == "mi300x"
    expected = 128 * 2**20 if hip else 32 * 2**20 if capability >= (9, 0) else int(8.125 * 2**20)
    assert profile.workspace_bytes == expected
    assert hip == ("gfx942" in profile.sources["compute_capability"])


@pytest.mark.parametrize("name", sorted(PROMISED | {"rtx-4060-ti-16gb"}))
def test_rates_are_plausible_beside_each_other(name: str) -> None:
    profile = load_profile(name)
    flops = {dtype: rate.value for dtype, rate in profile.flops_per_s.items()}
    rounded = 1.005  # specifications round to three digits
    assert 2 * flops["float32"] <= rounded * flops["float16"] <= 32 * flops["float32"]
    if "bfloat16" in flops:
        assert flops["bfloat16"] == flops["float16"]
        assert flops["tf32"] == pytest.approx(flops["bfloat16"] / 2, rel=0.03)
        assert flops["tf32"] >= flops["float32"]
    moved = {key: rate.value for key, rate in profile.bytes_per_s.items()}
    assert 200e9 < moved["memory"] < 9e12
    assert moved["host_to_device"] in (15.75e9, 31.5e9, 63e9)
    # a card's arithmetic per byte of its own memory lies within one order of magnitude over eight years of cards
    assert 50 < flops["float16"] / moved["memory"] < 500


@pytest.mark.parametrize("name", sorted(PROMISED | {"rtx-4060-ti-16gb"}))
def test_usable_memory_is_a_little_below_what_the_box_says(name: str) -> None:
    profile = load_profile(name)
    most = 1.07 if name in MARKETED_IN_DECIMAL else 1.0
    assert 0.9 * sold_bytes(name) < profile.memory_bytes < most * sold_bytes(name)


@pytest.mark.parametrize("name", SHIPPED)
def test_the_context_lies_in_its_interval(name: str) -> None:
    profile = load_profile(name)
    if profile.basis == "measured" and profile.context_interval_bytes is None:
        return
    assert profile.context_interval_bytes is not None
    low, high = profile.context_interval_bytes
    assert 50 * 2**20 < low < profile.context_bytes < high <= 2 * 2**30


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("NVIDIA A100-SXM4-80GB", "a100-sxm4-80gb"),
        ("NVIDIA GeForce RTX 4090", "rtx-4090"),
        ("NVIDIA GeForce RTX 4060 Ti", "rtx-4060-ti"),
        ("Tesla T4", "t4"),
        ("Intel(R) Xeon(R) Processor", "intel-xeon"),
        ("Intel(R) Core(TM) i7-8650U CPU @ 1.90GHz", "intel-core-i7-8650u-1-90ghz"),
    ],
)
def test_product_names_become_ids(text: str, expected: str) -> None:
    assert slug(text) == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("RTX 4090", "rtx-4090"),
        ("NVIDIA A100-SXM4-80GB", "a100-sxm4-80gb"),
        ("NVIDIA A100 80GB PCIe", "a100-pcie-80gb"),
        ("NVIDIA H100 80GB HBM3", "h100-sxm5-80gb"),
        ("NVIDIA H100 PCIe", "h100-pcie-80gb"),
        ("NVIDIA H200", "h200-sxm"),
        ("NVIDIA RTX 6000 Ada Generation", "rtx-6000-ada"),
        ("AMD Instinct MI300X", "mi300x"),
        ("Tesla V100-SXM2-16GB", "v100-sxm2-16gb"),
    ],
)
def test_spellings_and_driver_names_are_understood(own_home: Path, name: str, expected: str) -> None:
    assert load_profile(name).id == expected


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("rtx-4800", "did you mean rtx-4080 or"),
        ("rtx-4600", "did you mean rtx-4060 or"),
        ("a100", "a100-pcie-40gb or a100-pcie-80gb or a100-sxm4-40gb or a100-sxm4-80gb?"),
        ("3090", "rtx-3090?"),
        ("h100", "h100-sxm5-80gb?"),
    ],
)
def test_an_unknown_name_is_refused_with_near_matches(own_home: Path, name: str, near: str) -> None:
    with pytest.raises(DeviceError) as failure:
        load_profile(name)
    assert failure.value.exit_code == 2
    assert repr(name) in failure.value.message
    assert near in (failure.value.fix or "")
    assert "advisor devices" in (failure.value.fix or "")


def test_a_probed_card_wins_over_the_shipped_one_that_its_driver_name_means(own_home: Path) -> None:
    probed = dataclasses.replace(load_profile("NVIDIA H200"), id="h200", basis="measured", context_interval_bytes=None)
    save_profile(probed)
    assert load_profile("NVIDIA H200") == probed
    assert load_profile("h200-sxm").basis == "datasheet"


def test_a_name_cannot_leave_the_folder() -> None:
    with pytest.raises(DeviceError):
        load_profile("../../etc/passwd")


def test_an_unprobed_machine_says_so(own_home: Path) -> None:
    with pytest.raises(DeviceError, match="probed") as failure:
        this_device()
    assert "advisor probe" in (failure.value.fix or "")


def test_a_saved_profile_comes_back_and_is_this_device(own_home: Path) -> None:
    profile = DeviceProfile(
        "cpu-example-4c", "Example", "cpu", 2**34, flops_per_s={"float32": Rate(1e11, "probed", 0.02)}, basis="measured"
    )
    save_profile(profile)
    assert load_profile("cpu-example-4c") == profile
    assert this_device() == profile
    assert "cpu-example-4c" in profile_names()


def test_a_users_file_wins_over_a_shipped_one(own_home: Path) -> None:
    mine = dataclasses.replace(load_profile("t4"), memory_bytes=12 * 2**30)
    save_profile(mine)
    assert load_profile("t4").memory_bytes == 12 * 2**30


def test_a_damaged_profile_names_file_and_field(own_home: Path) -> None:
    (user_data_dir("profiles") / "mine.json").write_text(
        '{"id": "mine", "name": "x", "type": "tpu", "memory_bytes": 1}'
    )
    with pytest.raises(DeviceError) as failure:
        load_profile("mine")
    assert "mine.json" in failure.value.message
    assert any("type" in problem for problem in failure.value.problems)


def fitted(name: str = "t4") -> DeviceProfile:
    """A datasheet with half the matrix rate, as a fit stores it."""
    profile = load_profile(name, fitted=False)
    rates = {key: Rate(rate.value / 2, "measured steps") for key, rate in profile.flops_per_s.items()}
    facts = {"fitted": "to 3 measured steps"}
    return dataclasses.replace(profile, flops_per_s=rates, basis="fitted", facts=facts)


def test_a_fit_lies_over_the_datasheet_and_can_be_taken_away(own_home: Path) -> None:
    before = load_profile("t4")
    path = save_fitted(fitted())
    assert path == fitted_path("t4")
    now = load_profile("T4")
    assert now.basis == "fitted"
    assert now.flops_per_s["float16"].value == before.flops_per_s["float16"].value / 2
    assert now.facts == {**before.facts, "fitted": "to 3 measured steps"}
    assert now.memory_bytes == before.memory_bytes
    assert load_profile("t4", fitted=False) == before
    assert profile_names().count("t4") == 1
    forget_fitted("t4")
    assert load_profile("t4") == before
    with pytest.raises(DeviceError, match="there must be a fit of t4"):
        forget_fitted("t4")


def test_what_the_datasheet_says_of_memory_is_not_frozen_by_a_fit(own_home: Path) -> None:
    save_fitted(dataclasses.replace(fitted(), memory_bytes=1, context_bytes=2))
    assert load_profile("t4").memory_bytes > 2**33


def test_a_measured_profile_is_not_covered_by_an_earlier_fit(own_home: Path) -> None:
    save_fitted(fitted())
    measured = dataclasses.replace(load_profile("t4", fitted=False), basis="measured")
    save_profile(measured)
    assert load_profile("t4") == measured == this_device()


def test_a_damaged_fit_is_named(own_home: Path) -> None:
    save_fitted(fitted()).write_text("{")
    with pytest.raises(DeviceError, match=r"fitted/t4\.json"):
        load_profile("t4")
    assert load_profile("t4", fitted=False).basis == "datasheet"
    forget_fitted("t4")
    assert load_profile("t4").basis == "datasheet"


SMALL = ("raspberry-pi-5", "apple-m2", "jetson-orin-nano-8gb", "jetson-agx-orin-64gb")


@pytest.mark.parametrize("name", SMALL)
def test_small_machines_are_known_but_never_suggested_as_cards(name: str) -> None:
    from advisor.search.planner.reasons import known_devices

    profile = load_profile(name)
    assert profile.basis == "datasheet"
    assert 1 < profile.flops_per_s["float32"].value / profile.bytes_per_s["memory"].value < 30
    assert name not in {device.id for device in known_devices()}
    assert "t4" in {device.id for device in known_devices()}
