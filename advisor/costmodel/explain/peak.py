"""``explain_peak``: one full-depth trace of one configuration, taken apart at its largest moment."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterable
from itertools import takewhile

from advisor.core.device import DeviceProfile
from advisor.core.model import ModelSpec
from advisor.core.plan import ExecutionPlan
from advisor.core.strategy import StrategyConfig
from advisor.costmodel.explain.records import PeakExplanation, PeakShare, TensorGroup
from advisor.costmodel.explain.roles import (
    KIND_NAMES,
    OUTSIDE,
    Dimensions,
    role_of,
    stack_of,
    thinned_timeline,
    without_numbers,
)
from advisor.costmodel.memory.traced_run import PHASE_NAMES
from advisor.hardware.backends import backend_of
from advisor.tracing.attribution import AttributedRecording, Origin, attributed_trace
from advisor.tracing.recorder import Storage
from advisor.tracing.step import TraceRequest

LARGEST_TENSORS = 12
"""How many groups of equal tensors are named."""


def explain_peak(
    model: ModelSpec,
    strategy: StrategyConfig,
    execution: ExecutionPlan,
    device: DeviceProfile,
    *,
    seq_length: int,
    evaluation: bool = False,
    extra_batch_bytes: int = 0,
) -> PeakExplanation:
    """Trace one step at its own batch, length and full depth, and say what is alive at its peak.

    Args:
        model: Needs no weights.
        strategy: What is learned.
        execution: How it is run.
        device: Whose operators run, and how its allocator rounds.
        seq_length: Padded length of the batch.
        evaluation: Explain the peak of an evaluation pass (at ``eval_batch_size``) instead of the training step's.
        extra_batch_bytes: Micro-batches that the loader holds besides the traced ones.

    Raises:
        UntraceableError: the configuration cannot be traced.
    """
    if evaluation:
        execution = dataclasses.replace(execution, micro_batch_size=execution.evaluation_batch_size)
    request = TraceRequest(
        model,
        strategy,
        execution,
        seq_length,
        semantics=backend_of(device).traced_as,
        compute_capability=device.compute_capability,
        evaluation=evaluation,
    )
    recording = attributed_trace(request)
    sizes = Dimensions.of(model, seq_length, _parameter_shapes(recording))
    return _explained(recording, sizes, backend_of(device).memory.round_bytes, extra_batch_bytes, evaluation=evaluation)


def _explained(
    recording: AttributedRecording, sizes: Dimensions, round_bytes: int, extra_batch_bytes: int, *, evaluation: bool
) -> PeakExplanation:
    rounded = [-(-storage.size_bytes // round_bytes) * round_bytes for storage in recording.storages]
    index = _peak_event(recording, rounded, evaluation=evaluation)
    alive = _alive_after(recording, index)
    _, reached, phase = recording.events[index]
    roles = {number: role_of(recording.storages[number], recording.origins[number], sizes) for number in alive}

    def shares(name_of: Callable[[int], str], extra: str) -> tuple[PeakShare, ...]:
        totals: Counter[str] = Counter()
        for number in alive:
            totals[name_of(number)] += rounded[number]
        if extra_batch_bytes:
            totals[extra] += extra_batch_bytes
        return tuple(PeakShare(name, live_bytes) for name, live_bytes in totals.most_common() if live_bytes)

    origins, storages = recording.origins, recording.storages
    layers = _layers(recording)

    def layer_of(number: int) -> str:
        states = storages[number].kind == "optimizer_state"
        return KIND_NAMES["optimizer_state"] if states else layers.get(number, OUTSIDE)

    return PeakExplanation(
        live_bytes=sum(rounded[number] for number in alive) + extra_batch_bytes,
        phase=PHASE_NAMES.get(phase, phase),
        module=origins[reached].module,
        operator=origins[reached].operator,
        by_kind=shares(lambda n: KIND_NAMES[storages[n].kind], KIND_NAMES["activation"]),
        by_role=shares(lambda n: roles[n], "batch and loss"),
        by_layer=tuple(sorted(shares(layer_of, OUTSIDE), key=lambda share: _layer_order(share.name))),
        by_module_class=shares(lambda n: origins[n].module_class or _without_class(storages[n]), "loader"),
        by_operator=shares(lambda n: origins[n].operator or _without_class(storages[n]), "loader"),
        tensors=_groups(recording, alive, rounded, roles),
        timeline=thinned_timeline(recording, rounded, index, extra_batch_bytes),
        num_layers=len(set(layers.values())),
    )


def _peak_event(recording: AttributedRecording, rounded: list[int], *, evaluation: bool) -> int:
    """Index of the event after which most bytes are alive, in the wanted part of the step."""
    live_bytes, best_bytes, best = 0, -1, 0
    for index, (sign, number, phase) in enumerate(recording.events):
        live_bytes += sign * rounded[number]
        if (phase == "evaluation") == evaluation and live_bytes > best_bytes:
            best_bytes, best = live_bytes, index
    return best


def _alive_after(recording: AttributedRecording, index: int) -> list[int]:
    alive: dict[int, None] = {}
    for sign, number, _ in recording.events[: index + 1]:
        if sign > 0:
            alive[number] = None
        else:
            del alive[number]
    return list(alive)


def _parameter_shapes(recording: AttributedRecording) -> set[tuple[int, ...]]:
    pairs = zip(recording.storages, recording.origins, strict=True)
    return {origin.shape for storage, origin in pairs if storage.kind == "weight"}


def _layers(recording: AttributedRecording) -> dict[int, str]:
    """The layer of each storage that belongs to one: ``"layer 3"``, with several stacks ``"decoder.block 3"``."""
    places = {number: stack_of(origin.module) for number, origin in enumerate(recording.origins) if origin.module}
    stacks = sorted({place[0] for place in places.values() if place is not None})
    columns = zip(*(stack.split(".") for stack in stacks), strict=False)
    shared = len(list(takewhile(lambda names: len(set(names)) == 1, columns)))
    labels = {stack: ".".join(stack.split(".")[shared:]) or "layer" for stack in stacks}
    return {number: f"{labels[place[0]]} {place[1]}" for number, place in places.items() if place is not None}


def _layer_order(name: str) -> tuple[bool, str, int]:
    stack, _, number = name.rpartition(" ")
    return not number.isdigit(), stack, int(number) if number.isdigit() else 0


def _without_class(storage: Storage) -> str:
    """For what no module or operator of the step made."""
    return KIND_NAMES[storage.kind] if storage.kind != "activation" else "outside the modules"


def _groups(
    recording: AttributedRecording, alive: Iterable[int], rounded: list[int], roles: dict[int, str]
) -> tuple[TensorGroup, ...]:
    members: dict[tuple[object, ...], list[int]] = {}
    for number in alive:
        key = _group_key(recording.storages[number], recording.origins[number])
        members.setdefault(key, []).append(number)
    largest = sorted(members.values(), key=lambda numbers: -sum(rounded[n] for n in numbers))[:LARGEST_TENSORS]
    return tuple(_group(recording, numbers, rounded, roles) for numbers in largest)


def _group_key(storage: Storage, origin: Origin) -> tuple[object, ...]:
    if storage.kind == "optimizer_state":
        return storage.kind, origin.dtype  # of all parameters: they say nothing one by one
    place = without_numbers(origin.module)
    return place, origin.operator, origin.shape, origin.dtype, storage.kind, storage.phase, origin.recomputed


def _group(
    recording: AttributedRecording, numbers: list[int], rounded: list[int], roles: dict[int, str]
) -> TensorGroup:
    origin, storage = recording.origins[numbers[0]], recording.storages[numbers[0]]
    alone = len({recording.origins[number].module for number in numbers}) == 1
    return TensorGroup(
        module=origin.module if alone else without_numbers(origin.module),
        module_class=origin.module_class,
        role=roles[numbers[0]],
        kind=KIND_NAMES[storage.kind],
        operator=origin.operator,
        shape=origin.shape if len({recording.origins[number].shape for number in numbers}) == 1 else (),
        dtype=origin.dtype,
        phase=PHASE_NAMES.get(storage.phase, storage.phase),
        recomputed=origin.recomputed,
        count=len(numbers),
        live_bytes=sum(rounded[number] for number in numbers),
    )
