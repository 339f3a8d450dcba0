"""Several training runs at once, which pass through one frozen body together."""

from __future__ import annotations

import dataclasses
import functools
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import Trainer

from advisor.core.errors import AdvisorError
from advisor.core.events import Event, OnMemberEvent
from advisor.core.pack import PackMembership
from advisor.core.plan import Plan
from advisor.core.run import SAVE_EVERY_S, Measurement
from advisor.hardware.backends import Backend
from advisor.strategies.packing_rules import check_pack
from advisor.training.data import PreparedData
from advisor.training.metrics import HeldOut
from advisor.training.packing.random_streams import RandomStream
from advisor.training.packing.rendezvous import MemberThread
from advisor.training.packing.stacked_body import PassRequest, StackedBody, body_of
from advisor.training.run_folder import RunFolder
from advisor.training.sampling import OrderingTrainer
from advisor.training.stopping import StopSwitch, catching_interrupts
from advisor.training.switches import autocast, backend_of_plan
from advisor.training.tasks import get_task
from advisor.training.trainer import TrainedRun, TrainingRun, with_final_metrics

BACKWARD = "backward"
"""What a member waits for when its head has left gradients at the body's output."""


def train_pack(
    plans: Sequence[Plan],
    output_dirs: Sequence[Path],
    *,
    resume: bool = False,
    on_event: OnMemberEvent | None = None,
    time_limit_s: float | None = None,
    save_every_s: float = SAVE_EVERY_S,
) -> list[Measurement]:
    """Train, evaluate and save several plans in this process, in one forward pass over one frozen body.

    Every member is what its run would be alone: same data order, same dropout masks, same clipping, steps and
    figures, up to rounding. One that diverges, fails or ends earlier leaves the others as they are. Wall clocks are the
    pack's: a member's step takes as long as the step of all.

    Args:
        plans: What to run; ``pack_problem`` says which go together.
        output_dirs: One for each plan, as for a run of its own.
        resume: Continue earlier runs of the plans; finished ones are not run again.
        on_event: Receives every member's events.
        time_limit_s: No step is begun after this long.
        save_every_s: About how often each member writes a checkpoint.

    Returns:
        What was measured of each member. A member that raised has the outcome ``failed``, unless all did.

    Raises:
        InputError: the plans cannot be packed or run here, or an output folder cannot be used.
        KeyboardInterrupt: a second Ctrl-C, or one before the first step.
    """
    check_pack(plans)
    backend = backend_of_plan(plans[0])
    backend.runtime.prepare_for(plans[0].execution)
    deadline_s = math.inf if time_limit_s is None else time.monotonic() + time_limit_s
    pack = _Pack(backend, plans[0])
    members = []
    for position, (plan, output_dir) in enumerate(zip(plans, output_dirs, strict=True)):
        trained, switch = TrainedRun(HeldOut(get_task(plan.model.task))), StopSwitch(deadline_s)
        tell = functools.partial(on_event or _ignore, position)
        parts = (plan, plan.execution, RunFolder(Path(output_dir)), tell, switch, save_every_s, trained)
        membership = PackMembership(len(plans), position)
        thread = MemberThread(functools.partial(_work, parts, pack, resume, membership), pack.stream())
        members.append(_Member(thread, switch))
    with catching_interrupts(*(member.switch for member in members)):
        _lead([member.thread for member in members], pack)
    return _results(members)


@dataclass(frozen=True)
class _Member:
    thread: MemberThread
    switch: StopSwitch


class _Pack:
    """What members share: rows, tokenizer and body."""

    def __init__(self, backend: Backend, plan: Plan) -> None:
        self._device = torch.device(backend.torch_device)
        self.body = StackedBody(lambda: autocast(plan.execution, self._device.type), self._device.type)
        self.numbers: dict[MemberThread, int] = {}
        self._data: tuple[PreparedData, Any] | None = None

    def stream(self) -> RandomStream:
        """Random numbers for another member, which seeds them itself."""
        return RandomStream(self._device)

    def read_data(self, read: Callable[[], tuple[PreparedData, Any]]) -> tuple[PreparedData, Any]:
        """Read once, for all members."""
        if self._data is None:
            self._data = read()
        return self._data

    def join(self, thread: MemberThread, model: nn.Module) -> None:
        """From now on the member's head waits for the common pass instead of its own body."""
        self.numbers[thread] = self.body.join(model)
        body_of(model).forward = functools.partial(_pass_together, thread, model)


def _pass_together(thread: MemberThread, model: nn.Module, *args: Any, **inputs: Any) -> Any:
    """In the place of a member's body: hand its inputs over, and come back with its part of the common output."""
    if args:
        inputs = {"input_ids": args[0], **inputs}
    return thread.ask(PassRequest(inputs, model.training, torch.is_grad_enabled(), thread.stream))


def _work(
    parts: tuple[Any, ...], pack: _Pack, resume: bool, membership: PackMembership, thread: MemberThread
) -> Measurement:
    """A member's whole run, in its own thread; its figures are on disk when it ends, whatever the others do.

    Args:
        parts: Of the run, as ``TrainingRun`` takes them.
        pack: What it shares.
        resume: Whether the folder may hold an earlier run.
        membership: Which of how many it is.
        thread: Its own.
    """
    run = PackedRun(*parts, pack=pack, thread=thread)
    run.folder.claim(run.plan, resume=resume)
    if (finished := run.folder.finished()) is not None:
        return finished
    measurement = dataclasses.replace(with_final_metrics(run.execute(), run.trained), pack=membership)
    if measurement.outcome == "completed":
        run.folder.keep(measurement)
    return measurement


@dataclass(kw_only=True)
class PackedRun(TrainingRun):
    """A member's training run: an ordinary one, but for where rows, body and gradients come from."""

    pack: _Pack
    thread: MemberThread

    def _read_data(self) -> tuple[PreparedData, Any]:
        return self.pack.read_data(super()._read_data)

    def _build(self, device: str) -> nn.Module:
        model = super()._build(device)
        self.pack.join(self.thread, model)
        return model

    def _trainer_class(self, model: nn.Module) -> Callable[..., Trainer]:
        return functools.partial(PackedTrainer, thread=self.thread)


class PackedTrainer(OrderingTrainer):
    """The Trainer of one member: after its own backward pass, which ends at the body's output, it waits for that of
    the body.
    """

    def __init__(self, *args: Any, thread: MemberThread, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._member = thread

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        loss: torch.Tensor = super().training_step(*args, **kwargs)
        self._member.ask(BACKWARD)
        return loss


def _lead(threads: Sequence[MemberThread], pack: _Pack) -> None:
    """Give turns until all members have ended; do the passes in between."""
    try:
        for thread in threads:
            thread.start()
        while waiting := [thread for thread in threads if not thread.ended]:
            kind = waiting[0].request.kind
            group = [thread for thread in waiting if thread.request.kind == kind]
            numbers, requests = [pack.numbers[thread] for thread in group], [thread.request for thread in group]
            outputs = pack.body.forward(numbers, requests)
            for thread, output in zip(group, outputs, strict=True):
                thread.resume(output)
            del outputs
            stepping = [thread for thread in group if thread.request == BACKWARD]
            if stepping:
                pack.body.backward()
            for thread in stepping:
                thread.resume(None)
    except Exception as failure:
        for thread in threads:
            while not thread.ended and thread.request is not None:
                thread.resume(failure)
        raise


def _results(members: Sequence[_Member]) -> list[Measurement]:
    failures = [member.thread.failure for member in members if member.thread.failure is not None]
    if failures and (len(failures) == len(members) or not isinstance(failures[0], Exception)):
        raise failures[0]
    return [
        member.thread.result if member.thread.failure is None else _failed(member.thread.failure) for member in members
    ]


def _failed(failure: BaseException) -> Measurement:
    message = failure.message if isinstance(failure, AdvisorError) else f"{type(failure).__name__}: {failure}"
    return Measurement("failed", message)


def _ignore(position: int, event: Event) -> None:
    pass
