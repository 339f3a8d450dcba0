"""Shipped profiles, and loading by name."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from advisor.core.device import DeviceProfile, Rate
from advisor.core.errors import DeviceError
from advisor.core.store import resource_dir, user_data_dir
from advisor.hardware.profiles import load_profile, profile_names, save_profile, slug, this_device

SHIPPED = sorted(path.stem for path in resource_dir("profiles").glob("*.json"))


@pytest.fixture
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ADVISOR_HOME", str(tmp_path))
    return tmp_path


def test_the_four_cards_are_there() -> None:
    assert {"rtx-4060", "t4", "rtx-4090", "a100-sxm4-80gb"} <= set(profile_names())


@pytest.mark.parametrize("name", SHIPPED)
def test_every_number_of_a_shipped_profile_has_a_source(name: str) -> None:
    profile = load_profile(name)
    assert profile.id == name
    assert profile.basis == "datasheet"
    for rate in [*profile.flops_per_s.values(), *profile.bytes_per_s.values()]:
        assert rate.value > 0
        assert len(rate.source) > 15
    for field in (
        "memory_bytes",
        "compute_capability",
        "dtypes",
        "attention_kernels",
        "context_bytes",
        "workspace_bytes",
    ):
        assert len(profile.sources[field]) > 15, field
    assert profile.sources["launch_s"]
    assert "float32" in profile.flops_per_s
    assert "memory" in profile.bytes_per_s


@pytest.mark.parametrize("name", SHIPPED)
def test_figures_are_consistent(name: str) -> None:
    profile = load_profile(name)
    assert profile.context_interval_bytes is not None
    low, high = profile.context_interval_bytes
    assert low <= profile.context_bytes <= high
    assert ("bfloat16" in profile.dtypes) == (profile.compute_capability >= (8, 0))
    assert ("flash" in profile.attention_kernels) == (profile.compute_capability >= (8, 0))
    assert all(dtype in profile.flops_per_s for dtype in profile.dtypes)
    assert profile.flops_per_s["float16"].value >= profile.flops_per_s["float32"].value


def test_usable_memory_is_below_what_the_box_says() -> None:
    sold = {"rtx-4060": 8, "t4": 16, "rtx-4090": 24, "a100-sxm4-80gb": 80}
    for name, gib in sold.items():
        assert 0.9 * gib * 2**30 < load_profile(name).memory_bytes < gib * 2**30


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("NVIDIA A100-SXM4-80GB", "a100-sxm4-80gb"),
        ("NVIDIA GeForce RTX 4090", "rtx-4090"),
        ("Tesla T4", "t4"),
        ("Intel(R) Xeon(R) Processor", "intel-xeon"),
        ("Intel(R) Core(TM) i7-8650U CPU @ 1.90GHz", "intel-core-i7-8650u-1-90ghz"),
    ],
)
def test_product_names_become_ids(text: str, expected: str) -> None:
    assert slug(text) == expected


def test_spelling_variants_are_understood() -> None:
    assert load_profile("RTX 4090").id == "rtx-4090"
    assert load_profile("NVIDIA A100-SXM4-80GB").id == "a100-sxm4-80gb"


def test_an_unknown_name_is_refused_with_near_matches() -> None:
    with pytest.raises(DeviceError) as failure:
        load_profile("rtx-4080")
    assert failure.value.exit_code == 2
    assert "'rtx-4080'" in failure.value.message
    assert "rtx-4090" in (failure.value.fix or "")


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
