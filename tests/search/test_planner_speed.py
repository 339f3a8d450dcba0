"""Knobs that make a step faster without another operator: chosen where they pay, fixed where the user says so."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from advisor.core.budget import Budget
from advisor.core.data import DataProfile
from advisor.core.device import DeviceProfile, Rate
from advisor.core.errors import InputError
from advisor.core.plan import ExecutionPlan, Plan
from advisor.costmodel.time.run import computed_tokens, speed_notes
from advisor.reporting.text import format_execution
from advisor.search.planner import SpeedKnobs
from advisor.search.planner.request import grouping_pays
from advisor.tracing.trace_store import TraceStore
from tests.search.planner_fakes import FakeCostModel, cpu, cuda, data_profile, distilbert, plans_of, with_device_bytes

PLAN = ExecutionPlan(16, max_seq_length=128)
VARIED = data_profile(length=128)
EQUAL = replace(VARIED, token_length_quantiles=(128, 128))


def best(device: DeviceProfile, data: DataProfile = VARIED, **knobs: Any) -> Plan:
    answer = plans_of(distilbert(), FakeCostModel(device), data=data, methods=["lora"], speed=SpeedKnobs(**knobs))
    assert answer.best is not None
    return answer.best


def test_rows_are_grouped_where_their_lengths_differ() -> None:
    grouped, drawn = (computed_tokens(PLAN, VARIED, grouped=value) for value in (True, False))
    assert VARIED.mean_tokens() < grouped < 0.7 * drawn
    assert best(cuda(24)).execution.group_by_length
    assert not best(cuda(24), EQUAL).execution.group_by_length
    assert not best(cuda(24), group_by_length=False).execution.group_by_length
    assert best(cuda(24), EQUAL, group_by_length=True).execution.group_by_length


@pytest.mark.parametrize("knobs", [{"micro_batch_size": 1}, {"padded": False}], ids=str)
def test_without_padding_there_is_nothing_to_group(knobs: dict[str, Any]) -> None:
    assert grouping_pays(PLAN, VARIED)
    assert not grouping_pays(replace(PLAN, **knobs), VARIED)


def test_the_note_says_how_much_padding_is_saved() -> None:
    notes = speed_notes(best(cuda(24)).execution, VARIED)
    shares = [float(word.rstrip("%")) for word in notes[0].split() if word.endswith("%")]
    assert len(shares) == 2
    assert shares[0] < 10 < 40 < shares[1]


def test_of_rows_that_are_cut_only_what_is_left_counts_as_text() -> None:
    long = replace(VARIED, token_length_quantiles=(8, 300, 600))
    [note] = speed_notes(replace(PLAN, group_by_length=True), long)
    shares = [float(word.rstrip("%")) for word in note.split() if word.endswith("%")]
    # Of quantiles 8, 128 and 128 after the cut the mean is 98: 98 of 128 tokens where every batch is full length.
    assert shares[1] == pytest.approx(23, abs=2)


def test_tf32_follows_the_device_and_its_rounding_is_told() -> None:
    assert best(cuda(24)).execution.tf32
    assert not best(cuda(24, bf16=False)).execution.tf32
    assert not best(cpu()).execution.tf32
    assert not best(cuda(24), tf32=False).execution.tf32
    told = speed_notes(replace(PLAN, tf32=True), VARIED)
    assert "10 of 23 bits" in told[0]
    assert speed_notes(replace(PLAN, tf32=True, amp="bf16"), VARIED) == ()  # rounds to fewer bits by itself


def test_threads_are_those_that_the_probe_found_fastest() -> None:
    device = replace(cpu(), num_threads=3)
    assert best(device).execution.num_threads == 3
    assert best(device, num_threads=1).execution.num_threads == 1
    assert best(cpu()).execution.num_threads is None
    assert best(replace(cuda(24), num_threads=3)).execution.num_threads is None


def test_compilation_is_the_users_choice_and_not_for_four_bit_weights() -> None:
    assert not best(cuda(24)).execution.torch_compile
    compiled = best(cuda(24), torch_compile=True)
    assert compiled.execution.torch_compile
    assert any("not compiled" in note for note in speed_notes(compiled.execution, VARIED))
    knobs = SpeedKnobs(torch_compile=True)
    assert not knobs.settled(PLAN, cuda(24), VARIED, quantized=True).torch_compile


@pytest.mark.parametrize(
    ("device", "knobs", "words"),
    [
        (cpu(), {"tf32": True}, "compute capability 8.0, but cpu-test"),
        (cuda(16, bf16=False, name="t4"), {"tf32": True}, "t4 is none"),
        (cuda(16, name="l4"), {"num_threads": 2}, "l4 is a GPU"),
    ],
)
def test_what_the_device_lacks_is_refused(device: DeviceProfile, knobs: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        best(device, **knobs)


def test_none_of_them_makes_another_trace(tmp_path: Any) -> None:
    store = TraceStore("cuda", (8, 0), tmp_path)
    strategy = best(cuda(24)).strategy
    fast = replace(PLAN, group_by_length=True, tf32=True, torch_compile=True, num_threads=2)
    assert store.key(distilbert(), strategy, PLAN) == store.key(distilbert(), strategy, fast)
    assert store.key(distilbert(), strategy, PLAN) != store.key(distilbert(), strategy, replace(PLAN, amp="bf16"))


def test_they_are_shown_with_the_plan() -> None:
    fast = replace(PLAN, group_by_length=True, tf32=True, torch_compile=True, num_threads=2)
    assert format_execution(fast).endswith("grouped by length, tf32, compiled, 2 threads")
    assert "grouped" not in format_execution(PLAN)


def test_the_fastest_micro_batch_is_taken_not_the_largest() -> None:
    """A device on which large micro-batches fall out of a cache."""

    class Cached(FakeCostModel):
        def _time(self, model: Any, strategy: Any, execution: ExecutionPlan, data: Any) -> Any:
            time = super()._time(model, strategy, execution, data)
            slow = 1.5 if execution.micro_batch_size > 8 else 1.0
            return replace(time, step_s=time.step_s * slow, total_s=time.total_s * slow)

    device = replace(cpu(), flops_per_s={"float32": Rate(1e11, "probed")})
    answer = plans_of(distilbert(), Cached(device), data=VARIED, methods=["lora"])
    assert answer.best is not None
    assert answer.best.execution.micro_batch_size <= 8
    assert answer.best.execution.effective_batch_size == 32


def test_evaluation_takes_larger_batches_than_training_where_they_need_no_more_memory() -> None:
    """Evaluation of this model takes as much memory a row as an eighth of training, and is faster in larger batches."""

    class Evaluating(FakeCostModel):
        def _memory(self, model: Any, strategy: Any, execution: ExecutionPlan) -> Any:
            largest = max(execution.micro_batch_size, execution.eval_batch_size / 8)
            found = super()._memory(model, strategy, replace(execution, micro_batch_size=1))
            return with_device_bytes(found, int(found.device_bytes + largest * 2**28))

        def _time(self, model: Any, strategy: Any, execution: ExecutionPlan, data: Any) -> Any:
            time = super()._time(model, strategy, execution, data)
            return replace(time, total_s=time.total_s + 100 / execution.eval_batch_size)

    device = cuda(24)
    answer = plans_of(distilbert(), Evaluating(device), Budget(2 * 2**30), data=VARIED, methods=["lora"])
    assert answer.best is not None
    execution = answer.best.execution
    assert execution.micro_batch_size < 8
    assert execution.eval_batch_size == 8 * execution.micro_batch_size
