"""The probing process: tries and times everything on one device and prints each finding as one JSON line.

Run as ``python -m advisor.hardware.worker``. It is a process of its own because it may be interrupted, a broken native
library may kill it, and what it imports must not stay in the caller. Anything that libraries print goes to standard
error.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from advisor.core.errors import AdvisorError, DeviceError
from advisor.hardware.backends import Backend, backends_by_preference, get_backend
from advisor.hardware.backends.base import BeforeProbe, Emit
from advisor.hardware.host import inspect_host
from advisor.hardware.sequence import Probe
from advisor.hardware.trial import start_trial


@dataclass(frozen=True)
class Candidate:
    """A device that may be probed.

    Attributes:
        backend: Of its kind.
        index: Among the devices of that kind.
        before: What was known of these before any library was imported.
    """

    backend: Backend
    index: int
    before: BeforeProbe

    @property
    def torch_device(self) -> str:
        """As torch names it."""
        return self.backend.torch_device if self.backend.is_host else f"{self.backend.torch_device}:{self.index}"

    @property
    def name(self) -> str:
        """As ``--device`` takes it."""
        return self.backend.name if self.backend.is_host else f"{self.backend.name}:{self.index}"

    def start_trial(self) -> subprocess.Popen[str]:
        """Begin to try bitsandbytes there."""
        return start_trial(self.torch_device, self.backend.probing.scale.nf4_dtype)


def main(arguments: list[str] | None = None) -> None:
    """Probe the device named on the command line and print findings until done."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--until", type=float, required=True, help="time.monotonic() at which to be done")
    parser.add_argument("--known", action="store_true", help="an earlier probe has imported and tried the libraries")
    parser.add_argument("--threads", type=int, help="intra-op threads that an earlier probe chose")
    options = parser.parse_args(arguments)
    emit = _take_stdout()
    try:
        candidates = candidates_of(options.device)
    except AdvisorError as failure:
        emit(kind="error", message=failure.message, **({"fix": failure.fix} if failure.fix else {}))
        return
    likely = next((candidate for candidate in candidates if candidate.before.states), None)
    trial = likely.start_trial() if likely is not None else None  # beside the imports
    try:
        chosen = _choose(candidates, options.device, emit)
        if chosen is not None:
            if trial is not None and chosen != likely:
                trial.kill()
                trial = None
            _probe(chosen, options, trial, emit)
    finally:
        if trial is not None:
            trial.kill()


def candidates_of(wanted: str) -> list[Candidate]:
    """The named device, or the first one of each kind, the machine's own processor last.

    Args:
        wanted: The name of a back end, ``"cuda:1"`` for one of several devices; empty for whatever there is.

    Raises:
        DeviceError: no such back end, or it cannot be probed yet.
    """
    if wanted:
        name, colon, index = wanted.partition(":")
        backend = get_backend(name)
        if colon and not index.isdigit():
            raise DeviceError(f"the device must be {name} or {name} with a number, {name}:1, but got {wanted!r}")
        return [Candidate(backend, int(index or 0), backend.probing.look_before())]
    found = []
    for backend in backends_by_preference():
        with suppress(DeviceError):  # it cannot be probed yet
            found.append(Candidate(backend, 0, backend.probing.look_before()))
    return found


def _choose(candidates: Sequence[Candidate], wanted: str, emit: Emit) -> Candidate | None:
    """The first candidate that is there."""
    import torch

    for candidate in candidates:
        if candidate.index < candidate.backend.runtime.count():
            candidate.backend.runtime.prepare_process(inspect_host().cores)
            emit(kind="device", device=candidate.name, torch=torch.__version__)
            return candidate
    backend = candidates[0].backend
    emit(
        kind="error", message=f"there must be a device {wanted}, but torch finds {backend.runtime.count()} of its kind"
    )
    return None


def _probe(chosen: Candidate, options: argparse.Namespace, trial: subprocess.Popen[str] | None, emit: Emit) -> None:
    capability, goes_on = chosen.backend.probing.describe(chosen.torch_device, chosen.before, emit, known=options.known)
    if not goes_on:
        return
    if trial is None and not options.known and "bitsandbytes" not in sys.modules:
        trial = chosen.start_trial()
    try:
        Probe(
            chosen.backend,
            chosen.torch_device,
            inspect_host(),
            options.quick,
            options.until,
            capability,
            options.known,
            emit,
            options.threads,
        ).run(chosen.before, trial)
        emit(kind="done")
    finally:
        if trial is not None:
            trial.kill()


def _take_stdout() -> Emit:
    """Keep the real standard output for findings and send what libraries print to standard error."""
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def emit(**finding: Any) -> None:
        channel.write(json.dumps(finding) + "\n")
        channel.flush()

    return emit


if __name__ == "__main__":
    main(sys.argv[1:])
