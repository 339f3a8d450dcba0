"""Nothing that decides is cut in a narrow terminal; numbers are written as people write them."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from advisor.hardware.profiles import load_profile, profile_names
from advisor.reporting.device import print_device, print_device_list
from advisor.reporting.plans import print_recommendation
from advisor.reporting.run import print_run
from advisor.reporting.text import format_change, format_quantity, format_rate
from tests.reporting.test_tables import recommendation, record

WIDTHS = (60, 80, 120)


def page(width: int) -> tuple[Console, io.StringIO]:
    stream = io.StringIO()
    return Console(file=stream, width=width), stream


@pytest.mark.parametrize("width", WIDTHS)
def test_a_run_keeps_its_verdicts(width: int) -> None:
    console, stream = page(width)
    found = record()
    print_run(console, found)
    assert "…" not in stream.getvalue()
    for verdict in {verification.verdict for verification in found.verifications}:
        assert verdict in stream.getvalue()


@pytest.mark.parametrize("width", WIDTHS)
def test_a_recommendation_keeps_methods_memory_and_time(width: int) -> None:
    console, stream = page(width)
    print_recommendation(console, recommendation())
    assert "…" not in stream.getvalue()
    for heading in ("method", "quality", "memory", "run time"):
        assert heading in stream.getvalue()


@pytest.mark.parametrize("width", WIDTHS)
def test_devices_keep_the_names_that_one_types(width: int) -> None:
    console, stream = page(width)
    profiles = [load_profile(name) for name in profile_names()]
    print_device_list(console, profiles)
    assert "…" not in stream.getvalue()
    assert all(f"{profile.id} " in stream.getvalue() for profile in profiles)
    print_device(console, profiles[0])
    assert "…" not in stream.getvalue()


def test_numbers_have_no_exponents() -> None:
    assert format_rate(1520.0) == "1,520"
    assert format_rate(74.53) == "74.5"
    assert format_quantity("time.inference.samples_per_s", 1520.0) == "1,520"
    assert format_change(13.841) == "14.8x"
    assert format_change(0.042) == "+4.2 %"
    assert format_change(-0.5) == "-50.0 %"
