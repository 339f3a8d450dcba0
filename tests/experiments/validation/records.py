"""Records with figures of one's own choosing."""

from __future__ import annotations

import dataclasses
from typing import Any

from advisor.experiments.validation.records import CaseOutcome, Header, Kind, Measured, Predicted, Record, TracedWork

MIB = 2**20


def header(kind: Kind = "memory") -> Header:
    return Header(
        kind=kind,
        grid="cpu",
        device_id="cpu-test",
        device_name="a pretended CPU",
        device_type="cpu",
        memory_bytes=8 * 2**30,
        capacity_bytes=8 * 2**30,
        compute_capability=None,
        driver=None,
        versions={"torch": "2.13.0"},
        started_at="2026-01-01T00:00:00+00:00",
    )


def predicted(size_bytes: int, *, fits: bool = True, half_width: float = 0.01, step_s: float = 0.1) -> Predicted:
    interval = (size_bytes * (1 - half_width), size_bytes * (1 + half_width))
    return Predicted(
        allocated_bytes=size_bytes,
        reserved_bytes=size_bytes,
        device_bytes=size_bytes,
        required_bytes=None,
        intervals=dict.fromkeys(("allocated_bytes", "reserved_bytes", "device_bytes"), interval),
        upper_bytes=round(interval[1]),
        safety_level=0.95,
        fits=fits,
        peak_phase="backward",
        step_s=step_s,
        step_interval_s=None,
        trainable_parameters=10,
        code="0" * 12,
    )


def timed(
    key: str,
    measured_s: float | tuple[float, ...],
    predicted_s: float | None = None,
    *,
    half_width: float | None = 0.2,
    reference_s: tuple[float, ...] = (),
    seen: bool = False,
    work: TracedWork | None = None,
    **fields: Any,
) -> Record:
    """A timed case that ended."""
    times = measured_s if isinstance(measured_s, tuple) else (measured_s,) * 5
    step_s = predicted_s if predicted_s is not None else times[0]
    interval = (step_s / (1 + half_width), step_s * (1 + half_width)) if half_width is not None else None
    promised = dataclasses.replace(
        predicted(MIB, step_s=step_s), step_interval_s=interval, seen=seen, work=work, step_basis="calibrated"
    )
    return dataclasses.replace(
        record(key, promised=promised),
        measured=Measured(step_times_s=times, reference_s=reference_s),
        repeats=len(times),
        **fields,
    )


def record(
    key: str,
    *,
    promised: Predicted | None = None,
    allocated_bytes: int | None = None,
    device_bytes: int | None = None,
    outcome: CaseOutcome = "completed",
    method: str = "lora",
    total_parameters: int = 10**8,
    seconds: float = 1.0,
    **execution: object,
) -> Record:
    measured = None
    if outcome == "completed":
        measured = Measured(allocated_bytes=allocated_bytes, device_bytes=device_bytes, step_times_s=(0.1, 0.1))
    return Record(
        key=key,
        label=f"case {key}",
        model="bert-base",
        config_hash="0" * 12,
        task="sequence-classification",
        total_parameters=total_parameters,
        method=method,
        knobs={},
        execution={"attn_implementation": "sdpa", **execution},
        rows=8,
        length=128,
        capacity_bytes=8 * 2**30,
        outcome=outcome,
        reason="" if outcome == "completed" else "for a reason",
        predicted=promised,
        measured=measured,
        seconds=seconds,
    )
