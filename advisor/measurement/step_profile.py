"""How many bytes of tensors one real, unpatched Trainer step keeps alive at its worst moment.

On CPU there is no allocator statistic, but ``torch.profiler`` records every allocation and release of the CPU
allocator as a ``[memory]`` event. Their running sum over one optimizer step, on top of what was alive before it, is
the allocated peak. The step's own operators and tensors are untouched by the profiler, so this is an independent
measure of what the cost model traces.
"""

from __future__ import annotations

import dataclasses
import gc
import itertools
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments


@dataclass(frozen=True)
class ProfiledStep:
    """The allocation stream of one optimizer step, summed up.

    Attributes:
        peak_bytes: Largest number of live tensor bytes during the step.
        live_before_bytes: Alive when the step began, its batch included.
        live_after_bytes: Alive when it had ended.
        parameters_bytes, buffers_bytes, optimizer_states_bytes: Parts of ``live_before_bytes``; quantisation statistics
            count as buffers.
        other_bytes: The rest of ``live_before_bytes``: the batch, and what callbacks hold.
        events: How many allocations and releases were seen.
        largest_allocation_bytes: The biggest single allocation of the step.
        evaluation_peak_bytes: Largest number of live tensor bytes during an evaluation batch; ``None`` where none ran.
    """

    peak_bytes: int
    live_before_bytes: int
    live_after_bytes: int
    parameters_bytes: int
    buffers_bytes: int
    optimizer_states_bytes: int
    other_bytes: int
    events: int
    largest_allocation_bytes: int
    evaluation_peak_bytes: int | None = None

    @property
    def run_peak_bytes(self) -> int:
        """The larger of both peaks."""
        return max(self.peak_bytes, self.evaluation_peak_bytes or 0)

    def with_evaluation(self, evaluate: Callable[[], object]) -> ProfiledStep:
        """Also profile what ``evaluate`` does; weights and optimizer states are all that is alive when it begins."""
        gc.collect()
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
            evaluate()
        live_bytes = self.parameters_bytes + self.buffers_bytes + self.optimizer_states_bytes
        return dataclasses.replace(self, evaluation_peak_bytes=_peak_bytes(memory_events(profiled), live_bytes))


class StepProfiler(TrainerCallback):
    """Profiles the memory events of one optimizer step of a Trainer run.

    Make it before the model is built: tensors that are already alive then belong to somebody else and are not counted.

    Args:
        at_step: Which optimizer step, counted from 1; the first one creates the optimizer states and differs from the
            rest.

    Attributes:
        result: Set once the step is over.
    """

    def __init__(self, at_step: int = 2) -> None:
        self.result: ProfiledStep | None = None
        self._at_step = at_step
        gc.collect()
        self._foreign = live_storages()  # held, so that their addresses are not used again
        self._open = ExitStack()
        self._profile: Any = None
        self._before: dict[str, int] = {}

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if state.global_step + 1 != self._at_step:
            return
        gc.collect()  # what an earlier run left in cycles must not die while this one is profiled
        if gc.isenabled():
            gc.disable()  # nor a cycle of this very step: the collector comes at another moment in every process
            self._open.callback(gc.enable)
        self._before = live_parts(kwargs["model"], kwargs["optimizer"], ignoring=self._foreign)
        self._profile = self._open.enter_context(profile(activities=[ProfilerActivity.CPU], profile_memory=True))

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self._profile is None or self.result is not None:
            return
        self.close()
        self.result = _summarise(memory_events(self._profile), self._before)
        self._profile = None
        self._foreign = {}

    def close(self) -> None:
        """Stop profiling; needed where the step may have failed."""
        self._open.close()


def profile_pass(model: nn.Module, run: Callable[[], object]) -> ProfiledStep:
    """Profile the memory events of what ``run`` does with a model that is not trained."""
    gc.collect()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        run()
    parameters, buffers = _distinct_bytes(model.parameters()), _distinct_bytes(model.buffers())
    before = {"parameters": parameters, "buffers": buffers, "optimizer_states": 0, "other": 0}
    return _summarise(memory_events(profiled), before)


def _distinct_bytes(tensors: Iterable[torch.Tensor]) -> int:
    found: dict[int, torch.UntypedStorage] = {}
    for tensor in tensors:
        _add(found, tensor)
    return sum(storage.nbytes() for storage in found.values())


def memory_events(profiled: Any) -> list[int]:
    """Signed sizes of the CPU allocator's events in order of time: allocations above zero, releases below."""
    events = [
        (event.start_ns(), event.nbytes())
        for event in profiled.profiler.kineto_results.events()
        if event.name() == "[memory]" and event.device_type() == torch.autograd.DeviceType.CPU
    ]
    events.sort(key=lambda event: event[0])
    return [size_bytes for _, size_bytes in events]


def live_storages() -> dict[int, torch.UntypedStorage]:
    """Every tensor storage that Python can reach now, by address."""
    found: dict[int, torch.UntypedStorage] = {}
    for candidate in gc.get_objects():
        if issubclass(type(candidate), torch.Tensor):
            _add(found, candidate)
    return found


def live_parts(model: nn.Module, optimizer: Any, *, ignoring: dict[int, torch.UntypedStorage]) -> dict[str, int]:
    """Live bytes by owner: parameters (and gradients), buffers and quantisation statistics, optimizer states, the
    rest.
    """
    owners: dict[str, dict[int, torch.UntypedStorage]] = {
        "parameters": {},
        "buffers": {},
        "optimizer_states": {},
        "other": {},
    }
    for parameter in model.parameters():
        _add(owners["parameters"], parameter)
        if parameter.grad is not None:
            _add(owners["parameters"], parameter.grad)
        for statistic in _tensors_in(getattr(parameter, "quant_state", None)):
            _add(owners["buffers"], statistic)
    for buffer in model.buffers():
        _add(owners["buffers"], buffer)
    for tensor in _tensors_in(optimizer.state):
        _add(owners["optimizer_states"], tensor)
    owners["other"] = live_storages()
    sizes, seen = {}, set(ignoring)
    for owner, storages in owners.items():
        sizes[owner] = sum(storage.nbytes() for address, storage in storages.items() if address not in seen)
        seen |= storages.keys()
    return sizes


def _add(storages: dict[int, torch.UntypedStorage], tensor: torch.Tensor) -> None:
    """Fake and meta tensors own no memory; sparse and other storage-less ones cannot be asked."""
    if not tensor.is_cpu or type(tensor).__name__ == "FakeTensor":
        return
    try:
        storage = tensor.untyped_storage()
        address = storage.data_ptr()
    except (RuntimeError, NotImplementedError):
        return
    if address and storage.nbytes():
        storages[address] = storage


def _tensors_in(value: Any) -> list[torch.Tensor]:
    """Tensors inside nested mappings, and inside bitsandbytes' ``QuantState`` objects."""
    if isinstance(value, torch.Tensor):
        return [value]
    if hasattr(value, "items"):
        return [tensor for _, item in value.items() for tensor in _tensors_in(item)]
    if type(value).__name__ == "QuantState":
        return [tensor for item in vars(value).values() for tensor in _tensors_in(item)]
    return []


def _peak_bytes(sizes: list[int], live_bytes: int) -> int:
    """Largest number of live bytes while these events follow each other."""
    return max(itertools.accumulate(sizes, initial=live_bytes))


def _summarise(sizes: list[int], before: dict[str, int]) -> ProfiledStep:
    live_before_bytes = sum(before.values())
    return ProfiledStep(
        peak_bytes=_peak_bytes(sizes, live_before_bytes),
        live_before_bytes=live_before_bytes,
        live_after_bytes=live_before_bytes + sum(sizes),
        parameters_bytes=before["parameters"],
        buffers_bytes=before["buffers"],
        optimizer_states_bytes=before["optimizer_states"],
        other_bytes=before["other"],
        events=len(sizes),
        largest_allocation_bytes=max(sizes, default=0),
    )
