"""One measured run of a plan: a profiled step, then the training itself, each in a process of its own."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from advisor.core.benchmark import BenchmarkSettings
from advisor.core.errors import OutputError
from advisor.core.events import Event, OnEvent
from advisor.core.plan import Plan
from advisor.core.run import SAVE_EVERY_S, Measurement
from advisor.core.serialization import from_dict, read_json, to_json
from advisor.core.store import write_text_atomically
from advisor.hardware.backends.base import MemoryWatch, Runtime
from advisor.hardware.energy import EnergyMeter
from advisor.hardware.load import LoadMeter
from advisor.measurement.benchmark import with_allocated_peak, with_benchmark
from advisor.measurement.isolation import ADVICE, Result, isolated
from advisor.measurement.longest_batch import profile_longest_batch
from advisor.measurement.step_profile import ProfiledStep
from advisor.training.run_folder import RunFolder
from advisor.training.switches import backend_of_plan
from advisor.training.trainer import train_only, with_final_metrics

GRACE_SHARE = 0.1
LEAST_GRACE_S = 60.0
"""A run stops itself at its time limit, after the step it is in; if it does not within this long, it is killed."""


def measure_run(
    plan: Plan,
    output_dir: Path,
    *,
    resume: bool = False,
    on_event: OnEvent | None = None,
    time_limit_s: float | None = None,
    save_every_s: float = SAVE_EVERY_S,
    profile: bool = True,
    benchmark: BenchmarkSettings | None = None,
    grace_s: float | None = None,
) -> Measurement:
    """Run a plan and measure it.

    On CPU the allocated peak comes from a separate process that trains two optimizer steps on the longest batch, so
    that the profiler neither slows the real run nor adds to its resident set.

    Args:
        plan: What to run.
        output_dir: Empty, or with ``resume`` the folder of the same plan's earlier run.
        resume: Continue an earlier run of the plan; a finished one is not run again.
        on_event: Receives ``phase``, ``step``, ``evaluation`` and ``metrics`` events.
        time_limit_s: Of the training process; the checkpoint of what was done is kept.
        save_every_s: About how often a checkpoint is written.
        profile: Measure the allocated peak on CPU, too.
        benchmark: What else to measure of a run that completed; ``None`` leaves the benchmark core out.
        grace_s: How long after its limit the process is killed if it has not stopped itself; by default a tenth of the
            limit, and a minute at least.

    Returns:
        The figures; ``outcome`` says how the run ended, ``reason`` why and what to do about it.

    Raises:
        InputError: the plan cannot be run here, or the output folder is occupied, read-only or full.
    """
    folder, began_s = RunFolder(Path(output_dir)), time.perf_counter()
    with folder.locked():
        folder.claim(plan, resume=resume)
        if (finished := folder.finished()) is not None:
            return finished
        profiled = _profiled_step(plan, folder, on_event or _ignore) if profile else None
        if isinstance(profiled, Measurement):
            return profiled
        result = isolated(
            run_in_this_process,
            plan,
            folder.path,
            time_limit_s=time_limit_s,
            save_every_s=save_every_s,
            benchmark=benchmark,
            on_event=on_event or _ignore,
            timeout_s=process_limit_s(time_limit_s, grace_s),
            log_path=folder.log,
        )
        measurement = measurement_of(result, folder.log)
        if profiled is not None and measurement.allocated_peak_bytes is None:
            measurement = with_allocated_peak(measurement, profiled.run_peak_bytes)
        measurement = dataclasses.replace(measurement, wall_s=time.perf_counter() - began_s)
        folder.keep(measurement)
    return measurement


def run_in_this_process(
    plan: Plan,
    output_dir: Path,
    *,
    time_limit_s: float | None = None,
    save_every_s: float = SAVE_EVERY_S,
    on_event: OnEvent | None = None,
    benchmark: BenchmarkSettings | None = None,
) -> Measurement:
    """Train the plan here and add this process's memory figures, the device's energy and the benchmark core; meant for
    a process that does nothing else.
    """
    runtime = backend_of_plan(plan).runtime
    runtime.reset_peaks()
    with (
        naming_full_disks(output_dir),
        LoadMeter() as others,
        runtime.memory_watch() as watch,
        EnergyMeter(runtime.energy_counter) as energy,
    ):
        measurement, trained = train_only(
            plan, output_dir, resume=True, on_event=on_event, time_limit_s=time_limit_s, save_every_s=save_every_s
        )
    measurement = with_process_figures(measurement, runtime, others, watch, energy)
    if benchmark is None or measurement.outcome != "completed" or trained.data is None:
        return with_final_metrics(measurement, trained)
    (on_event or _ignore)({"kind": "phase", "name": "benchmark"})
    with naming_full_disks(output_dir):
        return with_benchmark(plan, RunFolder(Path(output_dir)), measurement, trained, watch.states, benchmark)


def process_limit_s(time_limit_s: float | None, grace_s: float | None) -> float | None:
    """After how long the process of a run is killed.

    Args:
        time_limit_s: After how long it stops itself.
        grace_s: What it gets for that; by default a tenth of the limit, and a minute at least.
    """
    if time_limit_s is None:
        return None
    return time_limit_s + (max(LEAST_GRACE_S, GRACE_SHARE * time_limit_s) if grace_s is None else grace_s)


def with_process_figures(
    measurement: Measurement, runtime: Runtime, others: LoadMeter, watch: MemoryWatch, energy: EnergyMeter
) -> Measurement:
    """The same with this process's memory, the device's energy, and what other programs left of the processor."""
    allocated_bytes, reserved_bytes = runtime.peaks()
    return dataclasses.replace(
        measurement,
        load=others.load(_threads()),
        energy_j=energy.joules,
        energy_source=energy.source,
        allocated_peak_bytes=allocated_bytes,
        reserved_peak_bytes=reserved_bytes,
        device_peak_bytes=watch.peak_bytes,
        baseline_bytes=watch.first_bytes,
    )


def _threads() -> int:
    """Intra-op threads of this process."""
    import torch

    return torch.get_num_threads()


@contextlib.contextmanager
def naming_full_disks(output_dir: Path) -> Iterator[None]:
    """A full disk is told apart from a defect.

    Raises:
        OutputError: writing failed; what is there can be continued.
    """
    try:
        yield
    except Exception as failure:
        if problem := full_disk(failure, output_dir):
            raise problem from failure
        raise


FULL_DISK_PHRASES = (
    "No space left on device",
    "Disk quota exceeded",
    "File too large",
    "PytorchStreamWriter failed",
    "unexpected pos",  # the same writer, when a write came back short
)


def full_disk(failure: Exception | str, output_dir: Path) -> OutputError | None:
    """A failure, or its text, as that of a disk that takes nothing; ``None`` when it is something else.

    ``torch.save`` and safetensors wrap the operating system's error in types and words of their own.
    """
    text = str(failure)
    refused = isinstance(failure, OSError) and failure.errno in (
        errno.ENOSPC,
        errno.EDQUOT,
        errno.EROFS,
        errno.EFBIG,
    )
    if not refused and not any(phrase in text for phrase in FULL_DISK_PHRASES):
        return None
    return OutputError(
        f"{output_dir} must take the run's files, but writing failed: {text.splitlines()[0]}",
        fix="free some space and continue with --resume",
    )


def _profiled_step(plan: Plan, folder: RunFolder, on_event: OnEvent) -> ProfiledStep | Measurement | None:
    """The profiled step, from an earlier start of this run if there is one; a Measurement when it ended the run.

    ``None`` where torch counts the allocated bytes of the run itself.
    """
    if backend_of_plan(plan).memory.counted:
        return None
    if folder.step_profile.exists():
        return from_dict(
            ProfiledStep, read_json(folder.step_profile, what="the step profile"), what=str(folder.step_profile)
        )
    on_event({"kind": "phase", "name": "profiling"})
    result = isolated(profile_longest_batch, plan, log_path=folder.log)
    if result.outcome == "failed" and result.error is None and plan.execution.torch_compile:
        result = isolated(profile_longest_batch, _as_written(plan), log_path=folder.log)
    if result.value is not None:
        write_text_atomically(folder.step_profile, to_json(result.value))
        return result.value
    if result.error is not None:
        raise result.error
    return measurement_of(result, folder.log)


def _as_written(plan: Plan) -> Plan:
    """What the training goes on with, too, when the compiled model fails."""
    return dataclasses.replace(plan, execution=dataclasses.replace(plan.execution, torch_compile=False))


def measurement_of(result: Result[Any], log: Path) -> Measurement:
    """An isolated run's end as figures. Expected failures of the input are raised, as they would be without
    isolation.
    """
    if result.error is not None:
        raise result.error
    if isinstance(result.value, Measurement):
        return result.value
    advice = f"see {log}" if result.outcome == "failed" else ADVICE[result.outcome]
    return Measurement(outcome=result.outcome, reason=f"{result.reason}; {advice}", total_s=result.wall_s)


def _ignore(event: Event) -> None:
    pass
