"""What collectives cost, by hand; and steps of several cards."""

from __future__ import annotations

import dataclasses

import pytest

from advisor.core.device import DeviceProfile
from advisor.core.errors import InputError
from advisor.costmodel.time.communication import (
    Parallelism,
    Traffic,
    collective_bandwidth,
    communication_seconds,
    parallel_step_time,
)
from advisor.costmodel.time.step import step_time
from advisor.hardware import load_profile
from advisor.tracing.ops import TracedOp

CARD = load_profile("a100-sxm4-80gb")
TRAFFIC = Traffic(weights_bytes=14e9, gradients_bytes=2e9)
NVLINK = 300e9 * 0.78
OPERATORS = (
    TracedOp("mm.default", "forward", 10**13, 10**9, 10**9, "bfloat16", count=10),
    TracedOp("mm.default", "backward", 10**13, 10**9, 10**9, "bfloat16", count=20),
    TracedOp("_foreach_add_.List", "optimizer", 0, 10**11, 10**11, "bfloat16"),
)


def test_one_card_talks_to_nobody() -> None:
    for kind in ("ddp", "fsdp"):
        assert communication_seconds(Parallelism(kind, 1), TRAFFIC, CARD) == 0  # type: ignore[arg-type]


def test_ddp_reduces_gradients_once_per_update() -> None:
    for accumulation in (1, 4):
        seconds = communication_seconds(Parallelism("ddp", 4), TRAFFIC, CARD, accumulation)
        assert seconds == pytest.approx(2 * 3 / 4 * 2e9 / NVLINK)


def test_fsdp_gathers_twice_and_scatters_once_per_micro_batch() -> None:
    once = communication_seconds(Parallelism("fsdp", 8), TRAFFIC, CARD)
    assert once == pytest.approx(7 / 8 * (2 * 14e9 + 2e9) / NVLINK)
    assert communication_seconds(Parallelism("fsdp", 8), TRAFFIC, CARD, 4) == pytest.approx(4 * once)


def test_cards_without_a_link_talk_over_pcie() -> None:
    assert collective_bandwidth(load_profile("a100-pcie-80gb")) == pytest.approx(31.5e9 * 0.65)
    mute = dataclasses.replace(CARD, bytes_per_s={"memory": CARD.bytes_per_s["memory"]})
    with pytest.raises(InputError, match="interconnect"):
        collective_bandwidth(mute)


@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_a_step_of_several_cards(kind: str) -> None:
    def seconds(devices: int) -> float:
        return parallel_step_time(OPERATORS, Parallelism(kind, devices), TRAFFIC, CARD, 4).seconds  # type: ignore[arg-type]

    step = parallel_step_time(OPERATORS, Parallelism(kind, 4), TRAFFIC, CARD, 4)  # type: ignore[arg-type]
    assert step.evidence == "extrapolated"
    assert step.low < step.seconds < step.high
    assert seconds(1) == pytest.approx(step_time(_four_micro_batches(), CARD).seconds, rel=1e-3)
    if kind == "ddp":
        assert seconds(8) > seconds(4) > seconds(1)


def _four_micro_batches() -> list[TracedOp]:
    return [op if op.phase == "optimizer" else dataclasses.replace(op, count=4 * op.count) for op in OPERATORS]


def test_sharded_states_are_updated_faster() -> None:
    still = Traffic(0.0, 0.0)
    one, eight = (
        parallel_step_time(OPERATORS, Parallelism("fsdp", devices), still, CARD).seconds for devices in (1, 8)
    )
    update = step_time(OPERATORS[2:], CARD).seconds
    assert one - eight == pytest.approx(update * 7 / 8, rel=0.01)


def test_no_cards_and_no_rates_are_refused() -> None:
    with pytest.raises(InputError, match="at least 1"):
        Parallelism("ddp", 0)
    bare = DeviceProfile("x", "x", "cuda", 2**34)
    with pytest.raises(InputError, match="neither") as failure:
        parallel_step_time(OPERATORS, Parallelism("ddp", 2), TRAFFIC, bare)
    assert "advisor probe" in (failure.value.fix or "")
