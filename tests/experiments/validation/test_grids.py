"""What the grids cover, and that the models are those that were published."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import pytest

from advisor.core.errors import InputError
from advisor.experiments.validation.cases import (
    GRIDS,
    Case,
    case_key,
    case_of,
    default_task,
    device_of,
    grid_model,
    model_names,
    validation_grid,
)
from advisor.experiments.validation.records import GridName, Kind
from advisor.strategies import get_strategy, strategies


def cases_of(grid: GridName, device_type: str, kind: Kind, repeats: int | None = None) -> tuple[Case, ...]:
    return tuple(cell.payload for cell in validation_grid(grid, device_type, kind, repeats))


def steps_of(names: Iterable[str]) -> set[str]:
    """Methods with steps of their own: of those with the same operators, the one that the others build as."""
    return {get_strategy(name).builds_as or name for name in names}


TRAINED = steps_of(method.name for method in strategies() if not method.fits_frozen_features)
"""What a grid measures: the steps of all methods but those that are not trained in steps."""
CPU, CUDA = cases_of("cpu", "cpu", "memory"), cases_of("cuda", "cuda", "memory")
QUICK_CPU, QUICK_CUDA = cases_of("quick", "cpu", "memory"), cases_of("quick", "cuda", "memory")
TIME_CPU, TIME_CPU_WIDE = cases_of("cpu", "cpu", "time"), cases_of("cpu-wide", "cpu", "time")
TIME_CUDA, TIME_QUICK_CPU = cases_of("cuda", "cuda", "time"), cases_of("quick", "cpu", "time")

PUBLISHED = {
    "distilbert-base": 66_955_010,
    "bert-base": 109_483_778,
    "roberta-large": 355_361_794,
    "gpt2": 124_439_808,
    "qwen2-0.5b": 494_032_768,
    "llama-3.2-1b": 1_235_814_400,
    "llama-3.2-3b": 3_212_749_824,
    "llama-3.1-8b": 8_030_261_248,
    "mistral-7b": 7_241_732_096,
    "gemma-2-2b": 2_614_341_888,
}
"""Parameters that the model cards and papers state (encoders: with a two-class head)."""


@pytest.mark.parametrize("name", PUBLISHED)
def test_models_have_their_published_size(name: str) -> None:
    assert grid_model(name).total_parameters == PUBLISHED[name]


def test_the_cuda_grid_covers_what_it_should() -> None:
    assert len(CUDA) >= 60
    assert steps_of(case.method for case in CUDA) == TRAINED
    assert min(case.length for case in CUDA) == 64
    assert max(case.length for case in CUDA) == 4096
    switches = [case.execution for case in CUDA]
    assert {values.get("optim") for values in switches} >= {"adamw_torch", "sgd", "adafactor", "adamw_bnb_8bit"}
    assert {values.get("attn_implementation") for values in switches} >= {None, "eager"}
    assert {values.get("amp") for values in switches} >= {None, "bf16", "fp16"}
    assert any(values.get("gradient_accumulation_steps", 1) > 1 for values in switches)
    assert any(case.fill is not None and case.fill < 1 for case in CUDA)
    assert any(case.fill is not None and case.fill > 1 for case in CUDA)
    assert {case.model for case in CUDA} >= set(PUBLISHED)


def test_the_cpu_grid_covers_what_it_should() -> None:
    assert len(CPU) >= 40
    assert steps_of(case.method for case in CPU) == TRAINED
    assert len({case.model for case in CPU}) >= 8
    assert not any(case.room or case.fill for case in CPU)


def test_no_case_is_there_twice() -> None:
    for grid in (CPU, CUDA):
        assert len({case_key(case) for case in grid}) == len(grid)


def test_a_key_follows_the_case_and_nothing_else() -> None:
    case = Case("bert-base", "lora", 8, 128, knobs={"rank": 8})
    assert case_key(case) == case_key(Case("bert-base", "lora", 8, 128, knobs={"rank": 8}))
    others = [
        Case("bert-small", "lora", 8, 128, knobs={"rank": 8}),
        Case("bert-base", "lora", 8, 128, knobs={"rank": 16}),
        Case("bert-base", "lora", 8, 128, knobs={"rank": 8}, room=0.9),
        Case("bert-base", "lora", 8, 128, task="masked-lm", knobs={"rank": 8}),
    ]
    assert len({case_key(other) for other in [case, *others]}) == 5


def test_keys_are_those_of_the_recorded_files() -> None:
    """Records of earlier versions are found again: keys of a few cases as version 0.1 wrote them."""
    recorded = Path(__file__).parents[1] / "golden"
    grids = {"memory-v1.jsonl": CPU, "time-v1.jsonl": TIME_CPU_WIDE}
    for name, grid in grids.items():
        known = {case_key(case): case.label for case in grid}
        lines = [json.loads(line) for line in (recorded / name).read_text(encoding="utf-8").splitlines()[1:]]
        assert lines
        assert {line["key"]: line["label"] for line in lines}.items() <= known.items()


def test_a_case_is_read_from_one_line() -> None:
    case = case_of("bert-base full 16x512 amp checkpointed task=masked-lm mixed_lengths=6")
    assert case == Case(
        "bert-base", "full", 16, 512, task="masked-lm", mixed_lengths=6,
        execution={"amp": "bf16", "gradient_checkpointing": True},
    )  # fmt: skip
    assert case_of("gpt2 lora 1x8 fill=0.9").fill == 0.9
    assert case_of("bert-small partial 8x128 unfrozen-3").knobs == {"unfrozen_layers": 3}


def test_every_model_is_used_and_every_used_one_exists() -> None:
    assert {case.model for case in (*CPU, *CUDA, *TIME_CPU)} == set(model_names())
    assert {default_task(name) for name in model_names()} == {"sequence-classification", "causal-lm"}


def test_the_quick_grid_is_quick() -> None:
    assert 5 <= len(QUICK_CPU) <= 10
    assert 5 <= len(QUICK_CUDA) <= 10
    assert {case.model for case in QUICK_CUDA} < set(model_names())


def test_unknown_grids_and_models_are_refused_by_name() -> None:
    with pytest.raises(InputError, match="medium"):
        validation_grid("medium", "cpu")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="bert-huge"):
        grid_model("bert-huge")
    assert GRIDS == ("cpu", "cpu-wide", "cuda", "quick")
    assert [device_of(grid) for grid in GRIDS] == ["cpu", "cpu", "cuda", None]
    with pytest.raises(InputError, match="cpu-wide"):
        validation_grid("cpu-wide", "cpu", "memory")


def test_the_time_grid_of_the_cpu_is_balanced() -> None:
    first = [case for case in TIME_CPU if not case.again]
    assert len(first) >= 70
    assert steps_of(case.method for case in first) == TRAINED
    for value_of, count in ((lambda case: case.model, 4), (lambda case: (case.rows, case.length), 4)):
        sizes = Counter(value_of(case) for case in first)
        common = sizes.most_common(count)
        assert common[-1][1] >= 0.6 * common[0][1], common
    switches = {name for case in first for name in case.execution}
    assert switches >= {
        "gradient_checkpointing", "amp", "attn_implementation", "gradient_accumulation_steps", "optim", "dtype",
    }  # fmt: skip
    assert all(case.repeats >= 5 for case in TIME_CPU_WIDE)


def test_the_wide_grid_suffices_for_the_coverage_of_intervals() -> None:
    first = [case for case in TIME_CPU_WIDE if not case.again]
    assert len({case_key(case) for case in first}) == len(first) >= 230
    assert TIME_CPU_WIDE[: len(TIME_CPU)] == TIME_CPU


@pytest.mark.parametrize("grid", [TIME_CPU, TIME_CPU_WIDE, TIME_CUDA])
def test_some_cases_are_measured_twice_at_different_moments(grid: tuple[Case, ...]) -> None:
    twice = [case for case in grid if case.again]
    assert len(twice) >= 6
    once = {case_key(case) for case in grid if not case.again}
    assert {case_key(dataclasses.replace(case, again=0)) for case in twice} <= once
    assert len({case_key(case) for case in grid}) == len(grid)


def test_the_time_grid_of_a_gpu_covers_what_it_should() -> None:
    first = [case for case in TIME_CUDA if not case.again]
    assert len(first) >= 60
    assert steps_of(case.method for case in first) == TRAINED
    tokens = [case.rows * case.length for case in first]
    assert min(tokens) <= 128
    assert max(case.length for case in first) == 4096
    assert not any(case.room or case.fill or case.mixed_lengths for case in first)
    assert any(case.model == "llama-3.1-8b" for case in first)


def test_both_kinds_in_one_run_measure_no_case_twice() -> None:
    for grid, device_type in (("cuda", "cuda"), ("cpu", "cpu"), ("quick", "cpu")):
        both = cases_of(grid, device_type, "all")
        assert len({case_key(case) for case in both}) == len(both)
        keys = {case_key(case): case.repeats for case in both}
        assert all(keys[case_key(case)] >= 3 for case in cases_of(grid, device_type, "time"))
        assert {case_key(case) for case in cases_of(grid, device_type, "memory")} <= set(keys)


def test_the_number_of_repeats_can_be_chosen() -> None:
    chosen = cases_of("quick", "cpu", "time", repeats=7)
    assert [case.repeats for case in chosen] == [7] * len(TIME_QUICK_CPU)
    assert [case_key(case) for case in chosen] == [case_key(case) for case in TIME_QUICK_CPU]
