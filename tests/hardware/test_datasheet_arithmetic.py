"""Datasheet rates against cores, clocks and memory buses, from the same makers' specifications."""

from __future__ import annotations

import pytest

from advisor.core.store import resource_dir
from advisor.hardware.profiles import load_profile

CORES_AND_BOOST_MHZ = {
    **{"t4": (2560, 1590), "l4": (7424, 2040), "a10": (9216, 1695), "l40": (18176, 2490), "l40s": (18176, 2520)},
    **{"v100-sxm2-16gb": (5120, 1530), "v100-sxm2-32gb": (5120, 1530)},
    **{f"a100-{kind}": (6912, 1410) for kind in ("pcie-40gb", "pcie-80gb", "sxm4-40gb", "sxm4-80gb")},
    **{"h100-sxm5-80gb": (16896, 1980), "h200-sxm": (16896, 1980), "h100-pcie-80gb": (14592, 1755)},
    **{"rtx-2080-ti": (4352, 1545), "rtx-3060": (3584, 1777), "rtx-3080": (8704, 1710), "rtx-3090": (10496, 1695)},
    **{"rtx-4060": (3072, 2460), "rtx-4060-ti": (4352, 2535), "rtx-4060-ti-16gb": (4352, 2535)},
    **{"rtx-4070": (5888, 2475), "rtx-4080": (9728, 2505), "rtx-4090": (16384, 2520)},
    **{"rtx-5080": (10752, 2617), "rtx-5090": (21760, 2407)},
    **{"rtx-a4000": (6144, 1560), "rtx-a5000": (8192, 1695), "rtx-a6000": (10752, 1800), "rtx-6000-ada": (18176, 2505)},
}
"""NVIDIA's architecture whitepapers and product pages. Left out: A10G and B200, whose cores are not published, and
MI300X, whose vector units issue two operations at once."""
TENSOR_RATIO = {
    **dict.fromkeys(("t4", "v100-sxm2-16gb", "v100-sxm2-32gb"), 8),
    **{name: 16 for name in CORES_AND_BOOST_MHZ if name.startswith("a100")},
    **{"h100-sxm5-80gb": 14.8, "h200-sxm": 14.8, "h100-pcie-80gb": 14.8},
    **dict.fromkeys(("l4", "a10", "l40s", "rtx-a4000", "rtx-a5000", "rtx-a6000", "rtx-6000-ada", "rtx-2080-ti"), 4),
}
"""Float16 tensor cores with float32 accumulation over float32 cores, dense. Two for all others: GeForce cards
accumulate in float32 at half the rate, and so does the L40. Hopper's tensor cores are rated at a lower clock."""
GDDR_BUS_BITS_AND_GBPS = {
    **{"t4": (256, 10), "l4": (192, 12.5), "a10": (384, 12.5), "l40": (384, 18), "l40s": (384, 18)},
    **{"rtx-2080-ti": (352, 14), "rtx-3060": (192, 15), "rtx-3080": (320, 19), "rtx-3090": (384, 19.5)},
    **{"rtx-4060": (128, 17), "rtx-4060-ti": (128, 18), "rtx-4070": (192, 21), "rtx-4080": (256, 22.4)},
    **{"rtx-4090": (384, 21), "rtx-5080": (256, 30), "rtx-5090": (512, 28)},
    **{"rtx-a4000": (256, 14), "rtx-a5000": (384, 16), "rtx-a6000": (384, 16), "rtx-6000-ada": (384, 20)},
}
NVLINK_GBPS = {"v100": 150, "a100-sxm4": 300, "h100-sxm5": 450, "h200": 450, "b200": 900, "mi300x": 448}
"""Per direction, by the beginning of the id; cards that need a bridge or have none state no link."""


@pytest.mark.parametrize("name", sorted(CORES_AND_BOOST_MHZ))
def test_float32_is_two_operations_per_core_and_clock(name: str) -> None:
    cores, mhz = CORES_AND_BOOST_MHZ[name]
    assert load_profile(name).flops_per_s["float32"].value == pytest.approx(2 * cores * mhz * 1e6, rel=0.01)


@pytest.mark.parametrize("name", sorted(CORES_AND_BOOST_MHZ))
def test_tensor_cores_are_dense_and_accumulate_in_float32(name: str) -> None:
    rates = load_profile(name).flops_per_s
    ratio = rates["float16"].value / rates["float32"].value
    assert ratio == pytest.approx(TENSOR_RATIO.get(name, 2), rel=0.025)
    assert ("bfloat16" in rates) == (name not in ("t4", "v100-sxm2-16gb", "v100-sxm2-32gb", "rtx-2080-ti"))


@pytest.mark.parametrize("name", sorted(GDDR_BUS_BITS_AND_GBPS))
def test_bandwidth_is_the_bus_times_its_rate(name: str) -> None:
    bits, gbps = GDDR_BUS_BITS_AND_GBPS[name]
    assert load_profile(name).bytes_per_s["memory"].value == pytest.approx(bits / 8 * gbps * 1e9, rel=0.01)


def test_links_between_cards_are_per_direction() -> None:
    for path in resource_dir("profiles").glob("*.json"):
        profile = load_profile(path.stem)
        if profile.basis != "datasheet":
            continue
        expected = next((gbps for start, gbps in NVLINK_GBPS.items() if profile.id.startswith(start)), None)
        link = profile.bytes_per_s.get("interconnect")
        assert (link.value / 1e9 if link else None) == expected, profile.id
        assert link is None or "in one" in link.source
