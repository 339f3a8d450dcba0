"""The efficiency part of the benchmark core: time, speed, memory, sizes, drift, each with how it was measured."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from advisor.core.benchmark import FEW_EVALUATIONS, MeasuredFigure
from advisor.core.metrics import Metric
from advisor.core.run import Measurement
from advisor.core.stats import relative_half_iqr
from advisor.core.units import counted
from advisor.training.run_samples import MemorySample, Throughput, warm_up_steps

PERCENTILES = {"step_p50_s": (50, 5), "step_p95_s": (95, 20), "step_p99_s": (99, 100)}
"""Percentile of each figure, and how many steps it takes for some to lie beyond it."""
ROUNDING = 1e-9
"""Figures that were computed in two ways differ by less."""
LARGE_SPREAD = 0.25
"""Half the interquartile range of step times over their median, above which they count as unstable."""


def efficiency_figures(
    measured: Measurement,
    throughput: Throughput | None,
    model_bytes: int | None,
    resident_peak_bytes: int,
    result: Path,
) -> dict[str, MeasuredFigure]:
    """Figures of a finished run.

    Args:
        measured: Of the run.
        throughput: Of its steps after warm-up.
        model_bytes: Of the model's own tensors; ``None`` where there is no model left.
        resident_peak_bytes: Largest resident set of the training process.
        result: Folder of the saved adapter or model.
    """
    found = dict(_times(measured)) | dict(_speeds(throughput))
    if model_bytes is not None:
        found["model_bytes"] = MeasuredFigure(model_bytes, "parameters and buffers of the model as stored")
    found |= dict(_memory(measured, resident_peak_bytes))
    weights = sorted(result.glob("*.safetensors")) or sorted(result.glob("*.bin"))
    if weights:
        saved_bytes = sum(file.stat().st_size for file in weights)
        found["saved_bytes"] = MeasuredFigure(saved_bytes, f"on disk: {', '.join(file.name for file in weights[:3])}")
    for name in ("trainable_parameters", "total_parameters"):
        found[name] = MeasuredFigure(
            getattr(measured, name), "counted on the model; 4-bit weights at their logical size"
        )
    if measured.achieved_sparsity is not None:
        found["achieved_sparsity"] = MeasuredFigure(measured.achieved_sparsity, "zeros among the trained weights")
    if measured.energy_j is not None:
        found["energy_j"] = MeasuredFigure(measured.energy_j, measured.energy_source)
    return found


def _times(measured: Measurement) -> Iterator[tuple[str, MeasuredFigure]]:
    yield "total_s", MeasuredFigure(measured.total_s, "wall clock of the whole run")
    yield "training_s", MeasuredFigure(measured.training_s, "wall clock without loading, evaluation and checkpoints")
    steps_s = steady_steps(measured.step_times_s)
    if not steps_s:
        return
    left_out = len(measured.step_times_s) - len(steps_s)
    spread = relative_half_iqr(steps_s) if len(steps_s) > 1 else 0.0
    quartiles = tuple(float(value) for value in np.quantile(steps_s, (0.25, 0.75)))
    for name, (percentile, least) in PERCENTILES.items():
        unstable = f"only {len(steps_s)} steps" if len(steps_s) < least else ""
        if not unstable and spread > LARGE_SPREAD:
            unstable = f"step times scatter by {spread:.0%}"
        how = f"optimizer steps, the first {left_out} left out as warm-up; batches differ in length"
        low, high = quartiles if percentile == 50 else (None, None)
        value = float(np.percentile(steps_s, percentile))
        yield name, MeasuredFigure(value, how, low, high, len(steps_s), unstable)


def steady_steps(step_times_s: Sequence[float]) -> Sequence[float]:
    """Step times without the warm-up."""
    return step_times_s[warm_up_steps(len(step_times_s)) :]


def _speeds(found: Throughput | None) -> Iterator[tuple[str, MeasuredFigure]]:
    if found is None or found.elapsed_s <= 0:
        return
    how = f"of the {found.steps} steps after warm-up, over their elapsed time without evaluation and checkpoints"
    unstable = "few steps" if found.steps < PERCENTILES["step_p95_s"][1] else ""
    speed = found.rows / found.elapsed_s
    yield "samples_per_s", MeasuredFigure(speed, f"{found.rows} rows {how}", samples=found.steps, unstable=unstable)
    if found.tokens is not None:
        speed = found.tokens / found.elapsed_s
        how = f"{found.tokens} tokens without padding {how}"
        yield "tokens_per_s", MeasuredFigure(speed, how, samples=found.steps, unstable=unstable)


def _memory(measured: Measurement, resident_peak_bytes: int) -> Iterator[tuple[str, MeasuredFigure]]:
    is_counted = measured.reserved_peak_bytes is not None
    allocated = "torch's allocator" if is_counted else "memory events of profiled steps of the longest batch"
    process = "NVML, polled every 50 ms" if is_counted else "resident set of the training process"
    peaks = {
        "allocated_peak_bytes": (measured.allocated_peak_bytes, allocated),
        "reserved_peak_bytes": (measured.reserved_peak_bytes, "torch's allocator"),
        "process_peak_bytes": (measured.device_peak_bytes, process),
        "resident_peak_bytes": (resident_peak_bytes, "resident set of the training process on the host"),
    }
    for name, (value_bytes, how) in peaks.items():
        if value_bytes is not None:
            yield name, MeasuredFigure(value_bytes, how)


def drift_figures(
    step_times_s: Sequence[float], memory: Sequence[MemorySample], states: Sequence[Mapping[str, Any]]
) -> dict[str, MeasuredFigure]:
    """How the end of a run differs from its beginning.

    Args:
        step_times_s: Of all steps.
        memory: Samples along the run.
        states: What the driver said of the device along the run.
    """
    found: dict[str, MeasuredFigure] = {}
    steps_s = steady_steps(step_times_s)
    quarter = len(steps_s) // 4
    if quarter:
        first, last = statistics.median(steps_s[:quarter]), statistics.median(steps_s[-quarter:])
        unstable = f"only {quarter} steps a quarter" if quarter < 10 else ""
        how = "median step time of the last quarter over that of the first, minus one"
        found["step_time_share"] = MeasuredFigure(last / first - 1, how, samples=2 * quarter, unstable=unstable)
    if len(memory) > 1:
        begin, end = memory[0], memory[-1]
        between = f"step {end.step} minus step {begin.step}"
        found["resident_bytes"] = MeasuredFigure(
            end.resident_bytes - begin.resident_bytes, f"resident set at {between}", samples=len(memory)
        )
        kept = [None if m.reserved_bytes is None else m.reserved_bytes - (m.allocated_bytes or 0) for m in (begin, end)]
        if kept[0] is not None and kept[1] is not None:
            found["cached_bytes"] = MeasuredFigure(
                kept[1] - kept[0], f"reserved less allocated at {between}", samples=len(memory)
            )
    found |= dict(_device_drift(states))
    return found


def _device_drift(states: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, MeasuredFigure]]:
    how = "NVML, about once a second"
    for name, (figure, pick) in {
        "sm_clock_hz": ("lowest_sm_clock_hz", min),
        "temperature_c": ("highest_temperature_c", max),
    }.items():
        values = [float(state[name]) for state in states if state.get(name) is not None]
        if values:
            yield figure, MeasuredFigure(pick(values), how, min(values), max(values), len(values))
    reasons = [str(state["slowdowns"]) for state in states if state.get("slowdowns")]
    if reasons:
        slowed = [reason for reason in reasons if reason != "none"]
        said = f"{how}: {', '.join(sorted(set(slowed)))}" if slowed else how
        yield "slowed_share", MeasuredFigure(len(slowed) / len(reasons), said, samples=len(reasons))


def run_warnings(measured: Measurement, metric: Metric) -> tuple[str, ...]:
    """What the evaluations along a run say about the model that was saved.

    Args:
        measured: Of the run.
        metric: What plans are ranked on.
    """
    history = [(step, metric.measured(figures)) for step, figures in measured.metric_history]
    known = [(step, value) for step, value in history if value is not None]
    found = []
    if len(known) < FEW_EVALUATIONS:
        few = counted(len(known), "evaluation")
        rule = f"fewer than {FEW_EVALUATIONS} do not tell where it was best"
        found.append(f"{few} along the run: {rule} (--evaluations-per-epoch)")
    saved = metric.measured(measured.metrics)
    if known and saved is not None:
        step, best = max(known, key=lambda pair: metric.score(pair[1]))
        if metric.score(best) > metric.score(saved) + ROUNDING:
            found.append(
                f"the best evaluation was never saved: {metric.title} {metric.show(best)} at step {step}, of the saved"
                f" model {metric.show(saved)}; keep it with --load-best, or train for fewer epochs"
            )
    return tuple(found)
