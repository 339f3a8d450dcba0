"""What was called fitting near a card's capacity, against what became of it on cards that are not there."""

from __future__ import annotations

import statistics

import pytest

from tools.phantom_gpu.edges import DRAWN, NEAR, Planner, false_fit, need_of
from tools.phantom_gpu.tables import EDGES, class_of, read_lines

LINES = read_lines(EDGES)


def test_as_many_as_promised_were_drawn_near_the_capacity() -> None:
    near = [need_of(line) for line in LINES if line["drawn"] == "near"]
    assert len(near) == DRAWN["near"][0] >= 40
    assert all(abs(need.distance) <= NEAR for need in near)
    assert {line["card"].partition(":")[0] for line in LINES} == {"rtx-3090", "t4", "rtx-4090", "a100-80gb"}


def test_nothing_that_is_called_fitting_runs_out_of_memory() -> None:
    assert sum(need_of(line).fits for line in LINES) >= 20
    assert not [line["case"] for line in LINES if false_fit(line)]


def test_what_is_refused_by_more_than_the_margin_runs_out_of_memory() -> None:
    refused = [line for line in LINES if need_of(line).surely_too_large]
    assert {line["outcome"] for line in refused} <= {"out_of_memory"}


def test_margins_are_small() -> None:
    margins = [need_of(line).margin for line in LINES]
    assert statistics.median(margins) <= 0.03
    assert max(margins) <= 0.06


EVERYDAY = ("distilbert-base full 37x504",)


@pytest.mark.parametrize(
    "line",
    [
        pytest.param(
            line, id=f"{line['card']} {line['case']}", marks=[] if line["case"] in EVERYDAY else pytest.mark.slow
        )
        for line in LINES
    ],
)
def test_this_version_predicts_what_was_recorded(line: dict[str, object]) -> None:
    """The very margins may move; what ran out of memory may not become fitting, nor the other way round far off."""
    need = Planner().need(str(line["card"]), str(line["case"]))
    assert abs(need.needed_bytes / need_of(line).needed_bytes - 1) < 0.01
    assert not (need.fits and line["outcome"] == "out_of_memory")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("t4 bert-base full 8x128 amp-fp16", "full, AdamW"),
        ("t4 bert-base full 8x128 sgd", "full, other optimizers (SGD, Adafactor, 8-bit, paged)"),
        ("t4 bert-base qlora 8x128 paged", "QLoRA"),
        ("t4 bert-base ia3 8x128, evaluation", "other adapters (IA3, HiRA, VeRA, DoRA)"),
    ],
)
def test_every_configuration_has_a_class(name: str, expected: str) -> None:
    assert class_of(name) == expected
