"""From a traced step to what a run must hold: histories, limits, safety levels, and the host's share."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from advisor.core.data import DataProfile
from advisor.core.device import DeviceProfile
from advisor.core.model import ModelSpec
from advisor.core.plan import ExecutionPlan
from advisor.costmodel.memory.batch_sequence import RunShapes, run_shapes
from advisor.costmodel.memory.caching_allocator import round_size
from advisor.costmodel.memory.estimate import bound_memory, estimate_memory
from advisor.costmodel.memory.overheads import BASELINE_BYTES, HostNeeds, RunOverheads, host_peak_bytes
from advisor.costmodel.memory.replay import (
    KERNEL_BUFFER_BYTES,
    Schedule,
    UntracedAllocations,
    Workspaces,
    heap_bytes,
    replay,
    schedule,
)
from advisor.costmodel.memory.traced_run import Spread, TracedRun, interval_around
from advisor.strategies import get_strategy
from advisor.tracing.full_depth import FullDepthTrace
from advisor.tracing.step import TraceRequest
from advisor.tracing.symbolic_trace import symbolic_trace
from tests.tracing.tiny import tiny_spec

MIB = 1 << 20
SHAPE = (32, 256, 8)
MIXED = RunShapes(SHAPE, SHAPE, (128, 64, 192))
DEVICE = DeviceProfile(
    id="card",
    name="A card",
    type="cuda",
    memory_bytes=16 << 30,
    compute_capability=(8, 0),
    context_bytes=400 * MIB,
    context_interval_bytes=(300 * MIB, 500 * MIB),
    workspace_bytes=8519680,
)


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> ModelSpec:
    return tiny_spec("bert", "sequence-classification", tmp_path_factory.mktemp("model"), num_hidden_layers=12)


def test_a_heap_holds_what_its_gaps_cannot() -> None:
    """Activations 1 and 2, gradients 3 and 4, optimizer states 0; a library's buffer lies behind the largest block."""
    plan = Schedule([5], [0], [1, 2], [3, ~2, 4, ~3], [~4, ~1], [6, ~6])
    sizes = [2 * MIB, MIB, 10 * MIB, 3 * MIB, 10 * MIB, 100 * MIB, MIB]
    shapes = RunShapes(SHAPE, SHAPE)
    first = MIB + 10 * MIB + KERNEL_BUFFER_BYTES + 3 * MIB + 10 * MIB
    assert heap_bytes(plan, {SHAPE: sizes}, shapes) == pytest.approx(first, abs=2000), "weights lie elsewhere"
    large = [*sizes[:6], 40 * MIB]
    assert heap_bytes(plan, {SHAPE: large}, shapes) > first + 15 * MIB, "evaluation counts"
    held = heap_bytes(plan, {SHAPE: sizes}, shapes, UntracedAllocations(batch_bytes=5 * MIB))
    assert held == pytest.approx(first + 5 * MIB, abs=2000)


def test_a_process_that_reads_data_holds_more_than_its_steps(family: FullDepthTrace, spec: ModelSpec) -> None:
    cpu = dataclasses.replace(DEVICE, id="cpu", type="cpu", compute_capability=None, workspace_bytes=0)
    alone = estimate_memory(TracedRun(family, RunShapes(SHAPE, SHAPE), spec, cpu, None, RunOverheads()))
    reading = estimate_memory(
        TracedRun(family, RunShapes(SHAPE, SHAPE), spec, cpu, None, RunOverheads(reader_bytes=45 * MIB))
    )
    assert reading.device_bytes == alone.device_bytes + 45 * MIB
    assert reading.allocated_bytes == alone.allocated_bytes


@pytest.fixture(scope="module")
def family(spec: ModelSpec) -> FullDepthTrace:
    strategy = get_strategy("lora").default_config(spec)
    asked = TraceRequest(spec, strategy, ExecutionPlan(4), 32, semantics="cuda", compute_capability=(8, 0))
    shallow, deeper = (symbolic_trace(dataclasses.replace(asked, num_hidden_layers=depth)) for depth in (2, 3))
    return FullDepthTrace(shallow, deeper, 10)


def test_mixed_lengths_hold_more_and_need_hardly_more(family: FullDepthTrace, spec: ModelSpec) -> None:
    equal = estimate_memory(TracedRun(family, RunShapes(SHAPE, SHAPE), spec, DEVICE))
    mixed = estimate_memory(TracedRun(family, MIXED, spec, DEVICE))
    assert mixed.reserved_bytes > 1.01 * equal.reserved_bytes
    assert mixed.required_bytes == pytest.approx(equal.required_bytes, rel=0.03)
    assert mixed.allocated_bytes == pytest.approx(equal.allocated_bytes, rel=0.01)
    assert mixed.allocated_bytes < mixed.required_bytes - DEVICE.context_bytes <= mixed.reserved_bytes


def test_only_what_lasts_is_left_after_a_run(family: FullDepthTrace) -> None:
    logs = {shape: family.events(shape) for _, shape in MIXED.steps()}
    plan = schedule(logs[SHAPE])
    sizes = {shape: log.sizes_bytes.tolist() for shape, log in logs.items()}
    allocator = replay(plan, sizes, MIXED, Workspaces(MIB, 2 * MIB), UntracedAllocations(5 * MIB, 7 * MIB))
    lasting = sum(round_size(sizes[SHAPE][number]) for number in [*plan.weights, *plan.states] if sizes[SHAPE][number])
    assert 0 <= allocator.allocated_bytes - lasting - 3 * MIB <= 2 * MIB  # rests that were not worth splitting off


def test_cached_memory_does_not_decide(family: FullDepthTrace, spec: ModelSpec) -> None:
    """On a card that has less than an unbounded allocator would hold, and more than is needed, a run gets through."""
    free = estimate_memory(TracedRun(family, MIXED, spec, DEVICE))
    assert free.required_bytes is not None
    room = round(0.3 * free.required_bytes + 0.7 * free.device_bytes)
    tight = estimate_memory(TracedRun(family, MIXED, spec, dataclasses.replace(DEVICE, memory_bytes=room)))
    assert tight.device_bytes <= room < free.device_bytes
    assert tight.required_bytes is not None
    assert tight.required_bytes <= room
    hopeless = estimate_memory(
        TracedRun(family, MIXED, spec, dataclasses.replace(DEVICE, memory_bytes=free.allocated_bytes))
    )
    assert hopeless.required_bytes == free.device_bytes


def test_bounds_hold_what_a_replay_finds(family: FullDepthTrace, spec: ModelSpec) -> None:
    run = TracedRun(family, MIXED, spec, DEVICE)
    exact, bounds = estimate_memory(run), bound_memory(run)
    for level in (0.5, 0.95, 0.99):
        assert bounds.leave_open(exact.quantile_bytes(level)), level
    for name, value in (("reserved_bytes", exact.reserved_bytes), ("device_bytes", exact.device_bytes)):
        assert bounds.typical.intervals[name].contains(value), name


@pytest.mark.parametrize("share", [0.5, 0.8, 1.3, 2.0, 8.0])
def test_what_bounds_decide_a_replay_decides_alike(share: float, family: FullDepthTrace, spec: ModelSpec) -> None:
    run = TracedRun(family, MIXED, spec, DEVICE)
    bounds, limit = bound_memory(run), round(share * estimate_memory(run).quantile_bytes(0.95))
    assert (estimate_memory(run, limit).quantile_bytes(0.95) <= limit) == (share > 1)
    if not bounds.leave_open(limit):
        assert (bounds.typical.quantile_bytes(0.95) <= limit) == (share > 1)
    assert bounds.leave_open(limit) or share not in (0.8, 1.3)
    assert not bounds.leave_open(limit) or share not in (0.5, 8.0)


def test_what_cannot_be_aligned_has_a_wider_interval(family: FullDepthTrace, spec: ModelSpec) -> None:
    known = dataclasses.replace(DEVICE, context_interval_bytes=(DEVICE.context_bytes, DEVICE.context_bytes))
    exact = estimate_memory(TracedRun(family, MIXED, spec, known))
    blind = dataclasses.replace(family)
    blind.__dict__["deep_log"] = None
    shallow = estimate_memory(TracedRun(blind, MIXED, spec, known))
    assert shallow.allocated_bytes == pytest.approx(exact.allocated_bytes, rel=0.02)
    narrow, wide = exact.intervals["reserved_bytes"], shallow.intervals["reserved_bytes"]
    assert wide.half_width > 1.5 * narrow.half_width
    assert wide.contains(exact.reserved_bytes)


def test_the_quantile_grows_with_the_safety_level(family: FullDepthTrace, spec: ModelSpec) -> None:
    memory = estimate_memory(TracedRun(family, MIXED, spec, DEVICE))
    levels = [memory.quantile_bytes(level) for level in (0.5, 0.8, 0.95, 0.99)]
    assert levels == sorted(levels)
    assert levels[0] == memory.required_bytes
    # The interval's level is 90 %, two-sided: its upper end is the 95 % quantile.
    assert levels[2] == pytest.approx(memory.intervals["required_bytes"].high, rel=1e-6)


def test_the_contexts_interval_is_the_profiles(family: FullDepthTrace, spec: ModelSpec) -> None:
    wide = dataclasses.replace(DEVICE, context_interval_bytes=(100 * MIB, 2000 * MIB))
    narrow, other = (estimate_memory(TracedRun(family, MIXED, spec, device)) for device in (DEVICE, wide))
    assert other.device_bytes == narrow.device_bytes
    assert other.intervals["device_bytes"].high - other.device_bytes > 1600 * MIB
    assert other.intervals["reserved_bytes"] == narrow.intervals["reserved_bytes"]


def test_workspaces_are_those_of_the_threads_that_multiply(family: FullDepthTrace, spec: ModelSpec) -> None:
    without = dataclasses.replace(DEVICE, workspace_bytes=0)
    with_workspace, bare = (estimate_memory(TracedRun(family, MIXED, spec, device)) for device in (DEVICE, without))
    assert family.multiplies_in("forward") and family.multiplies_in("backward")
    assert not family.multiplies_in("optimizer")
    extra = with_workspace.allocated_bytes - bare.allocated_bytes
    assert extra == pytest.approx(2 * DEVICE.workspace_bytes, abs=2 * MIB)
    assert with_workspace.breakdown.workspace_bytes == 2 * DEVICE.workspace_bytes


def test_quantising_one_large_weight_can_be_the_peak(family: FullDepthTrace, spec: ModelSpec) -> None:
    small = RunShapes((2, 8, 8), (2, 8, 8))
    facts = RunOverheads(quantizing_bytes=500 * MIB)
    assert estimate_memory(TracedRun(family, small, spec, DEVICE)).peak_phase != "loading"
    loading = estimate_memory(TracedRun(family, small, spec, DEVICE, None, facts))
    assert loading.peak_phase == "loading"
    assert loading.allocated_bytes > 500 * MIB


def test_further_micro_batches_are_held(family: FullDepthTrace, spec: ModelSpec) -> None:
    plain = estimate_memory(TracedRun(family, MIXED, spec, DEVICE))
    facts = RunOverheads(extra_batch_bytes=64 * MIB)
    more = estimate_memory(TracedRun(family, MIXED, spec, DEVICE, None, facts))
    assert more.allocated_bytes - plain.allocated_bytes == pytest.approx(64 * MIB, abs=2 * MIB)


def profile(*quantiles: int) -> DataProfile:
    return DataProfile(
        train_rows=1000,
        eval_rows=100,
        token_length_quantiles=quantiles,
        max_token_length=quantiles[-1],
        max_seq_length=128,
        sampled_rows=1000,
    )


def test_histories() -> None:
    execution = ExecutionPlan(4, max_seq_length=128)
    assert run_shapes(execution, 8, None).earlier_lengths == (64, 32, 96)
    assert run_shapes(execution, 8, None, same_length=True).earlier_lengths == ()
    assert run_shapes(dataclasses.replace(execution, padded=False), 8, None).earlier_lengths == ()
    measured = run_shapes(execution, 8, profile(*range(0, 129, 8))).earlier_lengths
    assert measured and all(length % 8 == 0 and length < 128 for length in measured)
    steps = run_shapes(execution, 8, None).steps()
    assert [kind for kind, _ in steps].count("evaluation") == 1
    assert steps[0][1] == steps[-1][1] == (4, 128, 8)


@given(st.lists(st.floats(0, 1e9), min_size=1, max_size=4), st.floats(0, 1e10))
def test_sources_add_in_quadrature(deviations: list[float], value: float) -> None:
    interval = interval_around(value, *(Spread(deviation, deviation) for deviation in deviations))
    assert interval.high >= value + max(deviations) * (1 - 1e-9)
    assert interval.high <= value + sum(deviations) * (1 + 1e-9) + 1e-3
    assert interval.low >= 0


def test_the_hosts_peak_is_loading_or_saving() -> None:
    loading = HostNeeds(weights_bytes=14_000, stored_bytes=14_000, saved_bytes=100, text_bytes=7)
    assert host_peak_bytes(loading) == BASELINE_BYTES + 7 + 28_000
    saving = HostNeeds(weights_bytes=0, stored_bytes=1_000, saved_bytes=14_000, optimizer_bytes=500)
    assert host_peak_bytes(saving) == BASELINE_BYTES + 14_500


def test_a_run_on_a_folder_of_weights_says_what_the_host_needs(family: FullDepthTrace, spec: ModelSpec) -> None:
    facts = RunOverheads(host=HostNeeds(weights_bytes=1 << 30, stored_bytes=1 << 30, saved_bytes=0))
    memory = estimate_memory(TracedRun(family, MIXED, spec, DEVICE, None, facts))
    assert memory.host_bytes == BASELINE_BYTES + (2 << 30)
    assert estimate_memory(TracedRun(family, MIXED, spec, DEVICE)).host_bytes is None
