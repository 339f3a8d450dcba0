"""What a probe tries and times, in order of importance, and how long each part may take."""

from __future__ import annotations

import dataclasses
import gc
import subprocess
import time
from collections.abc import Sequence

from advisor.core.errors import AdvisorError
from advisor.core.store import user_data_dir
from advisor.hardware.backends import HOST, Backend
from advisor.hardware.backends.base import BeforeProbe, Emit
from advisor.hardware.benchmark_grid import figures_of, measure, measure_figure
from advisor.hardware.benchmarks import Figure
from advisor.hardware.host import Finding, Host, busy_load
from advisor.hardware.kernels import DTYPES, KERNELS, first_line, try_attention_kernel, try_bitsandbytes, try_dtype
from advisor.hardware.timing import SamplingPolicy
from advisor.hardware.trial import finish_trial

QUICK_THREADS_S, FULL_THREADS_S = 1.0, 5.0
QUICK_REFERENCE_S, FULL_REFERENCE_S = 0.15, 0.5
QUICK_TAIL_S = 0.7
"""Kept back from the grid of a quick probe for what comes after it: a second look at the reference, storage."""
QUICK_GRID_S, FULL_GRID_S = 3.0, 20.0
"""The grid gets at least this, even when slow imports have used up the time: a profile without rates serves nobody."""
COMPILING_S = 8.0
"""Left at least for trying ``torch.compile``: importing torch and Triton and compiling takes about that. A C++ compiler
alone takes 20 s, so that on a CPU it is only looked for."""


@dataclasses.dataclass(frozen=True)
class Probe:
    """Everything that is tried and timed on one device, in order of importance.

    Attributes:
        backend: Of the device.
        device: As torch names it.
        host: The machine around it.
        quick: Fewer figures and repeats.
        until: ``time.monotonic()`` at which to be done.
        capability: Compute capability, where the device has one.
        known: bitsandbytes was tried by an earlier probe.
        emit: Receives findings.
        threads: Intra-op threads that an earlier probe chose; compared when ``None``.
    """

    backend: Backend
    device: str
    host: Host
    quick: bool
    until: float
    capability: tuple[int, int] | None
    known: bool
    emit: Emit
    threads: int | None = None

    def run(self, before: BeforeProbe, trial: subprocess.Popen[str] | None) -> None:
        """Try, time, and look back at the beginning.

        Args:
            before: From before this process used the device.
            trial: Of bitsandbytes, over before anything is timed; ``None`` when that is tried here, at the end.
        """
        dtypes, kernels = self._try_kernels()
        works = self._await(trial) if trial is not None else set()
        gc.collect()
        gc.freeze()  # what is imported stays, so that the collector has nothing to look through between two figures
        gc.disable()
        if self.backend.setups.num_threads:
            self._choose_threads()
        self._warm_up(dtypes)
        self._reference("start", dtypes)
        figures = figures_of(self.backend, self.device, dtypes, kernels, quick=self.quick, capability=self.capability)
        tail_s, least_s = self.backend.probing.tail_s, FULL_GRID_S
        if self.quick:
            tail_s, least_s = QUICK_TAIL_S, QUICK_GRID_S
        self._measure(figures, max(self.until - tail_s, time.monotonic() + least_s))
        self._reference("end", dtypes)
        self.backend.probing.look_back(self.device, before, dtypes[-1], self.emit)
        self._measure_storage()
        works |= self._try_here() if trial is None and not self.known else set()
        self._measure_bitsandbytes(works)
        self._try_compile()

    @property
    def pace(self) -> SamplingPolicy:
        return self.backend.probing.sampling(self.host, quick=self.quick)

    def _try_kernels(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The data types to time, that of training last, and the attention kernels that work, torch's choice last."""
        works = []
        for dtype in DTYPES:
            found = self._try_dtype(dtype)
            self.emit(kind="dtype", name=dtype, value=found.value, reason=found.reason)
            works += [dtype] if found.value == "yes" else []
        half = next((dtype for dtype in ("bfloat16", "float16") if dtype in works), "float32")
        kernels = []
        for kernel in KERNELS:
            found = self._try_kernel(kernel, half if self.backend.setups.half_precision else "float32")
            self.emit(kind="kernel", name=kernel, value=found.value, reason=found.reason)
            kernels += [kernel] if found.value == "yes" else []
        chosen = self.backend.probing.chosen_kernel(self.device, half, self.emit)
        kernels.sort(key=lambda kernel: kernel == chosen)
        return tuple(dict.fromkeys(("float32", half))), tuple(kernels)

    def _try_dtype(self, dtype: str) -> Finding:
        found = try_dtype(self.device, dtype)
        emulated = self.backend.probing.emulated(self.device, dtype) if found.value == "yes" else ""
        return Finding("no", emulated) if emulated else found

    def _try_kernel(self, kernel: str, dtype: str) -> Finding:
        absent = self.backend.probing.absent_kernels.get(kernel)
        return Finding("no", absent) if absent else try_attention_kernel(self.device, kernel, dtype)

    def _choose_threads(self) -> None:
        import torch

        from advisor.hardware.threads import choose_threads

        if self.threads is not None:
            torch.set_num_threads(self.threads)
            return
        budget_s = QUICK_THREADS_S if self.quick else FULL_THREADS_S
        try:
            load = busy_load()
            choice = choose_threads(self.host, budget_s=budget_s, quick=self.quick, load=load)
        except RuntimeError as failure:
            self.emit(kind="fact", name="threads", value="unknown", reason=first_line(failure))
            return
        torch.set_num_threads(choice.threads)
        self.emit(kind="threads", value=choice.threads, reason=choice.reason)

    def _warm_up(self, dtypes: Sequence[str]) -> None:
        """Until clocks have risen."""
        from advisor.hardware.products import reference_figure

        scale = self.backend.probing.scale
        measure_figure(
            reference_figure(self.device, dtypes[-1], scale), self.device, SamplingPolicy(1.0), scale.warm_up_s
        )

    def _reference(self, moment: str, dtypes: Sequence[str]) -> None:
        from advisor.hardware.products import reference_figure

        dtype = dtypes[-1] if self.backend.setups.half_precision else dtypes[0]
        figure = reference_figure(self.device, dtype, self.backend.probing.scale)
        budget_s = QUICK_REFERENCE_S if self.quick else FULL_REFERENCE_S
        found = measure_figure(figure, self.device, self.pace, budget_s)
        if found["kind"] == "rate":
            self.emit(kind="reference", moment=moment, name=figure.name, rate=found["work"] / found["median_s"])

    def _measure(self, figures: Sequence[Figure], deadline: float, device: str | None = None) -> None:
        for finding in measure(figures, device or self.device, self.pace, deadline=deadline):
            self.emit(**finding)

    def _measure_storage(self) -> None:
        from advisor.hardware.storage import storage_figures

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
        works = set()
        for answer in finish_trial(trial):
            self.emit(**answer)
            works |= {answer["name"]} if answer["value"] == "yes" else set()
        return works

    def _try_here(self) -> set[str]:
        """What of bitsandbytes works, in this process, which may die of it: ``trying`` says of what."""
        works = set()
        self.emit(kind="trying", name="bitsandbytes")
        for name, found in try_bitsandbytes(self.device, self.backend.probing.scale.nf4_dtype):
            self.emit(kind="fact", name=name, value=found.value, reason=found.reason)
            self.emit(kind="trying", name="bitsandbytes")
            works |= {name} if found.value == "yes" else set()
        self.emit(kind="tried")
        return works

    def _measure_bitsandbytes(self, works: set[str]) -> None:
        """Last, because its native library is the likeliest to end the process; a quick probe spares its import."""
        from advisor.hardware.optimizers import PACKING, bitsandbytes_figures

        needs = {"optimizer_8bit": "bitsandbytes adamw_8bit", "quantization": "bitsandbytes", PACKING: "bitsandbytes"}
        figures = [
            figure
            for figure in bitsandbytes_figures(self.device, self.backend.probing.scale)
            if not self.quick and needs[figure.key] in works
        ]
        self._measure(figures, max(self.until, time.monotonic() + len(figures) * self.pace.longest_s))

    def _try_compile(self) -> None:
        from advisor.hardware.compiling import look_for_compiler, try_compile

        left_s = self.until - time.monotonic()
        tries = self.backend.probing.tries_compiling and not self.quick and left_s >= COMPILING_S
        found = try_compile(self.device, left_s) if tries else look_for_compiler(self.backend.runtime)
        self.emit(kind="fact", name="torch.compile", value=found.value, reason=found.reason)
