"""Timing a list of figures within a deadline, on a machine that may be full, small or shared."""

from __future__ import annotations

import contextlib
import gc
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from advisor.hardware.attention import attention_figures
from advisor.hardware.backends import Backend, backend_on
from advisor.hardware.benchmarks import Figure, Workload
from advisor.hardware.optimizers import optimizer_figures
from advisor.hardware.overhead import overhead_figures
from advisor.hardware.products import product_figures
from advisor.hardware.timing import SamplingPolicy, Timing, time_call
from advisor.hardware.traffic import class_figures, memory_figures
from advisor.hardware.trials import first_line, is_out_of_memory

DIVISORS = (1, 4, 16)
"""Of the intended sizes, tried in turn when a device is too full for them."""


def figures_of(
    backend: Backend,
    device: str,
    dtypes: Sequence[str],
    kernels: tuple[str, ...],
    *,
    quick: bool,
    capability: tuple[int, int] | None = None,
) -> list[Figure]:
    """Everything to be timed on a device, most wanted first, so that a deadline cuts off the least.

    Args:
        backend: Of the device.
        device: As torch names it.
        dtypes: Data types that work; the last one is that of training, also in attention where that is usual.
        kernels: Attention kernels that work.
        quick: Only the figures of a quick probe.
        capability: Of the CUDA device.
    """
    scale = backend.probing.scale
    training_dtype = dtypes[-1] if backend.setups.half_precision else dtypes[0]
    figures = [*memory_figures(device, scale), *overhead_figures(device), *backend.probing.own_figures(device)]
    figures += product_figures(device, dtypes[0], scale, capability=capability)
    figures += class_figures(device, dtypes[0], scale)
    figures += attention_figures(device, kernels, training_dtype, scale)
    figures += optimizer_figures(device, scale)
    for dtype in dtypes[1:]:
        figures += product_figures(device, dtype, scale, capability=capability)
        figures += class_figures(device, dtype, scale)
    wanted = [figure for figure in figures if figure.quick]
    return wanted if quick else wanted + [figure for figure in figures if not figure.quick]


def measure(
    figures: Sequence[Figure],
    device: str,
    pace: SamplingPolicy,
    *,
    deadline: float,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[dict[str, Any]]:
    """Time figures one after the other.

    Args:
        figures: In order of importance.
        device: Waited for around samples, and emptied between figures.
        pace: How samples are taken.
        deadline: On ``clock``; figures that are not begun by then are left out.
        clock: Monotonic seconds.

    Yields:
        Findings: ``timing`` before each figure (a crash thus names its figure), then ``rate`` or ``left_out``.
    """
    for index, figure in enumerate(figures):
        left_s = deadline - clock()
        if left_s <= 0:
            yield {"kind": "left_out", "key": figure.key, "name": figure.name, "reason": "no time was left"}
            continue
        yield {"kind": "timing", "name": figure.name}
        share_s = min(pace.longest_s, left_s / (len(figures) - index))
        yield measure_figure(figure, device, pace, share_s)


def measure_figure(figure: Figure, device: str, pace: SamplingPolicy, budget_s: float) -> dict[str, Any]:
    """Time one figure, smaller when the device is too full; never raises for what the device cannot do.

    Returns:
        A finding, ``rate`` or ``left_out``.
    """
    reason = ""
    for divisor in DIVISORS:
        full = False
        try:
            return _timed(figure, divisor, device, pace, budget_s)
        except Exception as failure:
            reason = f"{type(failure).__name__}: {first_line(failure)}"
            full = is_out_of_memory(failure)
        finally:
            _release(device, thorough=full)
        if not full:
            break
    return {"kind": "left_out", "key": figure.key, "name": figure.name, "reason": reason}


def _timed(figure: Figure, divisor: int, device: str, pace: SamplingPolicy, budget_s: float) -> dict[str, Any]:
    """Build, time and let go of what was built: only numbers leave this function."""
    import torch

    with torch.set_grad_enabled(figure.grad), _precision(tf32=figure.tf32):
        work = figure.build(divisor)
        with work.context:
            timing = time_call(
                work.call,
                budget_s=budget_s,
                synchronize=backend_on(device).runtime.synchronize,
                min_repeats=pace.min_repeats,
                target_s=pace.target_s,
            )
    return _rate(figure, work, timing, divisor)


@contextlib.contextmanager
def _precision(*, tf32: bool) -> Iterator[None]:
    """Whether float32 products may be rounded to TF32, while the block runs."""
    import torch

    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if tf32 else "highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def _rate(figure: Figure, work: Workload, timing: Timing, divisor: int) -> dict[str, Any]:
    return {
        "kind": "rate",
        "table": figure.table,
        "key": figure.key,
        "point": work.point,
        "label": work.label + (f" (1/{divisor} of the usual size: the device is full)" if divisor > 1 else ""),
        "work": work.amount,
        "median_s": timing.median_s,
        "spread": timing.spread,
        "repeats": len(timing.samples_s),
        "lost": timing.lost,
    }


def _release(device: str, *, thorough: bool) -> None:
    """Hand back what the last figure held; the collector runs only where memory was missing."""
    if thorough:
        gc.collect()
    with contextlib.suppress(RuntimeError):
        backend_on(device).runtime.release_cached()
