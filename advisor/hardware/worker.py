"""The probing process: tries and times everything on one device and prints each finding as one JSON line.

Run as ``python -m advisor.hardware.worker``. It is a process of its own because it may be interrupted, a broken native
library may kill it, and what it imports must not stay in the caller. Anything that libraries print goes to standard
error.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from advisor.core.errors import AdvisorError, DeviceError
from advisor.core.store import user_data_dir
from advisor.hardware.backends import HOST, Backend, backends_by_preference, get_backend
from advisor.hardware.backends.base import BeforeProbe, Emit
from advisor.hardware.benchmark_grid import figures_of, measure, measure_figure
from advisor.hardware.benchmarks import Figure
from advisor.hardware.host import Finding, Host, busy_load, inspect_host, other_work
from advisor.hardware.load import LoadMeter
from advisor.hardware.optimizers import PACKING, bitsandbytes_figures
from advisor.hardware.products import reference_figure
from advisor.hardware.storage import storage_figures
from advisor.hardware.threads import choose_threads
from advisor.hardware.timing import SamplingPolicy
from advisor.hardware.trials import (
    DTYPES,
    KERNELS,
    finish_trial,
    first_line,
    start_trial,
    try_attention_kernel,
    try_bitsandbytes,
    try_compile,
    try_native_dtype,
)

QUICK_THREADS_S, FULL_THREADS_S = 1.0, 5.0
QUICK_REFERENCE_S, FULL_REFERENCE_S = 0.15, 0.5
QUICK_TAIL_S = 0.7
"""Kept back from the grid of a quick probe for what comes after it: a second look at the reference, storage."""
QUICK_GRID_S, FULL_GRID_S = 3.0, 20.0
"""The grid gets at least this, even when slow imports have used up the time: a profile without rates serves nobody."""
COMPILING_S = 8.0
"""Left at least for trying ``torch.compile``: importing torch and Triton and compiling takes about that. A C++ compiler
alone takes 20 s, so that on a CPU it is only looked for."""


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
        if chosen is None:
            return
        if trial is not None and chosen != likely:
            trial.kill()
            trial = None
        capability, goes_on = chosen.backend.probing.describe(
            chosen.torch_device, chosen.before, emit, known=options.known
        )
        if not goes_on:
            return
        if trial is None and not options.known and "bitsandbytes" not in sys.modules:
            trial = chosen.start_trial()
        Probe(chosen, options, inspect_host(), capability, emit).run(trial)
        emit(kind="done")
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
    found = candidates[0].backend.runtime.count()
    emit(kind="error", message=f"there must be a device {wanted}, but torch finds {found} of its kind")
    return None


def _take_stdout() -> Emit:
    """Keep the real standard output for findings and send what libraries print to standard error."""
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def emit(**finding: Any) -> None:
        channel.write(json.dumps(finding) + "\n")
        channel.flush()

    return emit


class Probe:
    """Everything that is tried and timed on one device, in order of importance.

    Args:
        chosen: The device.
        options: ``quick``: fewer figures and repeats; ``until``: when to be done; ``known``: bitsandbytes was tried by
            an earlier probe; ``threads``: what an earlier probe chose, compared when ``None``.
        host: The machine around it.
        capability: Compute capability, where the device has one.
        emit: Receives findings.
    """

    def __init__(
        self,
        chosen: Candidate,
        options: argparse.Namespace,
        host: Host,
        capability: tuple[int, int] | None,
        emit: Emit,
    ) -> None:
        self.backend, self.device, self.before = chosen.backend, chosen.torch_device, chosen.before
        self.quick, self.options, self.host = options.quick, options, host
        self.capability, self.emit = capability, emit
        self.probing = self.backend.probing
        self.pace = self.probing.sampling(host, quick=self.quick)

    def run(self, trial: subprocess.Popen[str] | None) -> None:
        """Try, time, and look back at the beginning.

        Args:
            trial: Of bitsandbytes, over before anything is timed; ``None`` when that is tried here, at the end.
        """
        dtypes, kernels = self._try_kernels()
        works = self._await(trial) if trial is not None else set()
        gc.collect()
        gc.freeze()  # what is imported stays, so that the collector has nothing to look through between two figures
        gc.disable()
        if self.backend.setups.num_threads:
            self._choose_threads()
        warm_up = reference_figure(self.device, dtypes[-1], self.probing.scale)
        measure_figure(warm_up, self.device, SamplingPolicy(1.0), self.probing.scale.warm_up_s)  # clocks have risen
        self._reference("start", dtypes)
        figures = figures_of(self.backend, self.device, dtypes, kernels, quick=self.quick, capability=self.capability)
        tail_s, least_s = (QUICK_TAIL_S, QUICK_GRID_S) if self.quick else (self.probing.tail_s, FULL_GRID_S)
        self._measure(figures, max(self.options.until - tail_s, time.monotonic() + least_s))
        self._reference("end", dtypes)
        self.probing.look_back(self.device, self.before, dtypes[-1], self.emit)
        self._measure_storage()
        works |= self._try_here() if trial is None and not self.options.known else set()
        self._measure_bitsandbytes(works)
        self._try_compile()

    def _try_kernels(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The data types to time, that of training last, and the attention kernels that work, torch's choice last."""
        works = [
            dtype
            for dtype in DTYPES
            if self._tried("dtype", dtype, try_native_dtype(self.device, dtype, self.probing.emulated))
        ]
        half = next((dtype for dtype in ("bfloat16", "float16") if dtype in works), "float32")
        dtype = half if self.backend.setups.half_precision else "float32"
        kernels = [kernel for kernel in KERNELS if self._tried("kernel", kernel, self._try_kernel(kernel, dtype))]
        chosen = self.probing.chosen_kernel(self.device, half, self.emit)
        kernels.sort(key=lambda kernel: kernel == chosen)
        return tuple(dict.fromkeys(("float32", half))), tuple(kernels)

    def _tried(self, kind: str, name: str, found: Finding) -> bool:
        """Emit what a trial found; whether it works."""
        self.emit(kind=kind, name=name, value=found.value, reason=found.reason)
        return found.value == "yes"

    def _try_kernel(self, kernel: str, dtype: str) -> Finding:
        absent = self.probing.absent_kernels.get(kernel)
        return Finding("no", absent) if absent else try_attention_kernel(self.device, kernel, dtype)

    def _choose_threads(self) -> None:
        import torch

        if self.options.threads is not None:
            torch.set_num_threads(self.options.threads)
            return
        budget_s = QUICK_THREADS_S if self.quick else FULL_THREADS_S
        try:
            choice = choose_threads(self.host, budget_s=budget_s, quick=self.quick, load=other_work() or busy_load())
        except RuntimeError as failure:
            self.emit(kind="fact", name="threads", value="unknown", reason=first_line(failure))
            return
        torch.set_num_threads(choice.threads)
        self.emit(kind="threads", value=choice.threads, reason=choice.reason)

    def _reference(self, moment: str, dtypes: Sequence[str]) -> None:
        dtype = dtypes[-1] if self.backend.setups.half_precision else dtypes[0]
        figure = reference_figure(self.device, dtype, self.probing.scale)
        budget_s = QUICK_REFERENCE_S if self.quick else FULL_REFERENCE_S
        found = measure_figure(figure, self.device, self.pace, budget_s)
        if found["kind"] == "rate":
            self.emit(kind="reference", moment=moment, name=figure.name, rate=found["work"] / found["median_s"])

    def _measure(self, figures: Sequence[Figure], deadline: float, device: str | None = None) -> None:
        """Figures that other programs disturbed are marked, and taken once more while there is time."""
        disturbed = self._measured(figures, deadline, device)
        left_s = min(deadline, self.options.until) - time.monotonic()
        if disturbed and left_s > 0:
            self._measured(disturbed, time.monotonic() + left_s, device)

    def _measured(self, figures: Sequence[Figure], deadline: float, device: str | None) -> list[Figure]:
        """Take figures in order; returns those that were disturbed."""
        disturbed: list[Figure] = []
        remaining = iter(figures)
        threads = self.host.cores if self.backend.is_host else 1
        findings = measure(figures, device or self.device, self.pace, deadline=deadline)
        while True:
            with LoadMeter(cores=self.host.cores) as others:
                finding = next(findings, None)
            if finding is None:
                return disturbed
            if finding["kind"] != "timing":
                figure = next(remaining)
                if finding["kind"] == "rate" and (load := others.load(threads)):
                    finding |= {"load": load}
                    disturbed.append(figure)
            self.emit(**finding)

    def _measure_storage(self) -> None:
        try:
            folder = user_data_dir("profiles")
        except (AdvisorError, OSError) as failure:
            self.emit(kind="left_out", key="storage", name="storage", reason=first_line(failure))
            return
        figures = [figure for figure in storage_figures(folder) if figure.quick or not self.quick]
        self._measure(figures, time.monotonic() + len(figures) * self.pace.longest_s, HOST)

    def _await(self, trial: subprocess.Popen[str]) -> set[str]:
        """What of bitsandbytes works."""
        self.emit(kind="awaiting")
        answers = finish_trial(trial)
        for answer in answers:
            self.emit(**answer)
        return {answer["name"] for answer in answers if answer["value"] == "yes"}

    def _try_here(self) -> set[str]:
        """What of bitsandbytes works, in this process, which may die of it: ``trying`` says of what."""
        works = set()
        self.emit(kind="trying", name="bitsandbytes")
        for name, found in try_bitsandbytes(self.device, self.probing.scale.nf4_dtype):
            works |= {name} if self._tried("fact", name, found) else set()
            self.emit(kind="trying", name="bitsandbytes")
        self.emit(kind="tried")
        return works

    def _measure_bitsandbytes(self, works: set[str]) -> None:
        """Last, because its native library is the likeliest to end the process; a quick probe spares its import."""
        needs = {"optimizer_8bit": "bitsandbytes adamw_8bit", "quantization": "bitsandbytes", PACKING: "bitsandbytes"}
        usable = [] if self.quick else bitsandbytes_figures(self.device, self.probing.scale)
        figures = [figure for figure in usable if needs[figure.key] in works]
        self._measure(figures, max(self.options.until, time.monotonic() + len(figures) * self.pace.longest_s))

    def _try_compile(self) -> None:
        """Tried where there is time; else whether what it needs is there."""
        left_s = self.options.until - time.monotonic()
        if self.probing.tries_compiling and not self.quick and left_s >= COMPILING_S:
            found = try_compile(self.device, left_s)
        else:
            refusal = self.backend.runtime.compile_refusal()
            found = Finding("untried", refusal[0] if refusal is not None else "its compiler is there")
        self._tried("fact", "torch.compile", found)


if __name__ == "__main__":
    main(sys.argv[1:])
