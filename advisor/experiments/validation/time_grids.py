"""The grids of step times: a balanced share of all models, methods, shapes and switches, every model as often as any
other.

``cpu``: four models, all strategies, four shapes, and each switch on some of them; about a quarter of an hour on two
quiet cores. ``cpu-wide``: the same and many short steps more, enough for the coverage of intervals. ``cuda``: the
memory grid's cases whose steps are ordinary, and some more.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from advisor.core.device import DeviceType
from advisor.core.errors import InputError
from advisor.experiments.validation.case import Case, case_key
from advisor.experiments.validation.grids import (
    ADAFACTOR,
    AMP,
    BF16,
    CHECKPOINTED,
    CPU,
    CUDA,
    DORA,
    EAGER,
    FOREACH,
    GRIDS,
    QUICK_CPU,
    QUICK_CUDA,
    SGD,
    UNPADDED,
    VERA,
    accumulated,
    make_case,
)
from advisor.experiments.validation.record import GridName, Kind

REPEATS = 5
"""Timed steps of a case, of which the median counts."""

CPU_MODELS = ("minilm-l6", "distilbert-base", "bert-base", "llama-8x512")
SHAPES = ((4, 32), (8, 64), (8, 128), (16, 128))
SHORT_SHAPES = ((2, 48), (16, 32), (4, 96), (8, 32))
METHODS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("full", {}),
    ("lora", {}),
    ("head", {}),
    ("qlora", {}),
    ("partial", {}),
    ("hira", {}),
    ("ia3", {}),
    ("high_rank_lora", {}),
    ("sparse_lora", {}),
    ("peft", {"peft_config": DORA["peft_config"]}),
)
HEAD_TASK = {"llama-8x512": "sequence-classification"}
"""Head-only training of a decoder is that of a classifier."""
OFTEN = ("full", "lora", "partial", "qlora", "high_rank_lora")
"""Measured in two shapes per model."""

SWITCHED = (
    make_case("minilm-l6", "full", 16, 128, CHECKPOINTED),
    make_case("minilm-l6", "lora", 8, 128, AMP),
    make_case("minilm-l6", "full", 8, 64, accumulated(4)),
    make_case("minilm-l6", "full", 16, 128, EAGER),
    make_case("minilm-l6", "lora", 16, 128, knobs={"rank": 64, "target_modules": "all-linear"}),
    make_case("distilbert-base", "full", 8, 64, ADAFACTOR),
    make_case("distilbert-base", "lora", 8, 128, CHECKPOINTED),
    make_case("distilbert-base", "full", 8, 64, AMP),
    make_case("distilbert-base", "lora", 8, 128, UNPADDED),
    make_case("bert-base", "full", 8, 64, SGD),
    make_case("bert-base", "lora", 8, 128, EAGER),
    make_case("bert-base", "lora", 4, 64, accumulated(2)),
    make_case("bert-base", "full", 4, 64, FOREACH),
    make_case("bert-base", "partial", 8, 128, CHECKPOINTED, knobs={"unfrozen_layers": 6}),
    make_case("llama-8x512", "full", 8, 64, CHECKPOINTED),
    make_case("llama-8x512", "lora", 8, 64, BF16),
    make_case("llama-8x512", "lora", 4, 64, EAGER, accumulated(2)),
    make_case("llama-8x512", "full", 4, 64, ADAFACTOR),
    make_case("llama-8x512", "peft", 8, 64, knobs=VERA),
)
MEASURED_TWICE = 8


def _crossed(shapes: tuple[tuple[int, int], ...], shift: int, only: tuple[str, ...] | None = None) -> list[Case]:
    """One case per model and method, the shapes spread evenly over both."""
    cases = []
    for column, (method, knobs) in enumerate(METHODS):
        for row, model in enumerate(CPU_MODELS):
            if only is not None and method not in only:
                continue
            rows, length = shapes[(row + column + shift) % len(shapes)]
            task = HEAD_TASK.get(model) if method == "head" else None
            cases.append(make_case(model, method, rows, length, task=task, knobs=knobs))
    return cases


def _with_repeats(cases: list[Case]) -> tuple[Case, ...]:
    """Every case timed, and some of them once more when all others are done."""
    timed = [dataclasses.replace(case, repeats=REPEATS) for case in cases]
    return (*timed, *(dataclasses.replace(case, again=1) for case in timed[:: len(timed) // MEASURED_TWICE]))


def _is_ordinary(case: Case) -> bool:
    return case.room is None and case.fill is None and not case.mixed_lengths


_CPU = [*_crossed(SHAPES, 0), *_crossed(SHAPES, 2, OFTEN), *SWITCHED]
_SHORT = [case for shift in range(len(SHORT_SHAPES)) for case in _crossed(SHORT_SHAPES, shift)]

TIME_CPU = _with_repeats(_CPU)
TIME_CPU_WIDE = (*TIME_CPU, *(dataclasses.replace(case, repeats=REPEATS) for case in _SHORT))
_HOST_BOUND = [
    make_case("distilbert-base", "full", 4, 32),
    make_case("distilbert-base", "head", 2, 64),
    make_case("bert-base", "lora", 1, 128),
    make_case("bert-base", "sparse_lora", 4, 32),
    make_case("roberta-large", "ia3", 2, 64, AMP),
    make_case("qwen2-0.5b", "lora", 1, 128, BF16),
    make_case("llama-3.2-1b", "lora", 1, 128, BF16),
    make_case("llama-3.2-1b", "qlora", 1, 128, BF16),
]
"""Small batches, in which launching operators takes longer than running them."""
TIME_CUDA = _with_repeats([*(case for case in CUDA if _is_ordinary(case)), *_HOST_BOUND])
_QUICK = [case for case in TIME_CPU if case.model == "minilm-l6"][:6]
TIME_QUICK_CPU = (*_QUICK, dataclasses.replace(_QUICK[0], again=1))
TIME_QUICK_CUDA = tuple(dataclasses.replace(case, repeats=REPEATS) for case in QUICK_CUDA)

_MEMORY: dict[tuple[GridName, DeviceType], tuple[Case, ...]] = {
    ("cpu", "cpu"): CPU,
    ("cuda", "cuda"): CUDA,
    ("quick", "cpu"): QUICK_CPU,
    ("quick", "cuda"): QUICK_CUDA,
}
_TIME: dict[tuple[GridName, DeviceType], tuple[Case, ...]] = {
    ("cpu", "cpu"): TIME_CPU,
    ("cpu-wide", "cpu"): TIME_CPU_WIDE,
    ("cuda", "cuda"): TIME_CUDA,
    ("quick", "cpu"): TIME_QUICK_CPU,
    ("quick", "cuda"): TIME_QUICK_CUDA,
}


def grid_cases(
    grid: GridName, device_type: DeviceType, kind: Kind = "memory", repeats: int | None = None
) -> tuple[Case, ...]:
    """The cases of a grid, in the order in which they run.

    Args:
        grid: Its name.
        device_type: Where it runs; ``"quick"`` differs.
        kind: ``"all"`` has the cases of both kinds, those that both have once and timed.
        repeats: Timed steps of every timed case; the grid's own when ``None``.

    Raises:
        InputError: no such grid, or none of that kind.
    """
    place = (grid, device_type)
    memory = _MEMORY.get(place, ()) if kind != "time" else ()
    timed = _TIME.get(place, ()) if kind != "memory" else ()
    if not memory and not timed:
        known = [name for name in GRIDS if kind != "memory" or name != "cpu-wide"]
        raise InputError(f"the grid must be one of {', '.join(known)} for {kind} on {device_type}, but got {grid!r}")
    if repeats is not None:
        timed = tuple(dataclasses.replace(case, repeats=repeats) for case in timed)
    keyed = {case_key(case): case for case in memory} | {case_key(case): case for case in timed}
    return tuple(keyed.values())
