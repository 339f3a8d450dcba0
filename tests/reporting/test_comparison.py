"""A comparison and an evaluation as tables: every part that there is, and nothing of what is missing."""

from __future__ import annotations

import io

from rich.console import Console

from advisor.core.benchmark import ClassFigures, MeasuredFigure, ModelEvaluation, QualityReport
from advisor.core.comparison import (
    ComparedRun,
    ErrorGroup,
    ErrorWord,
    HardItem,
    RunComparison,
    RunPair,
    SeedDifference,
    SeedGroup,
)
from advisor.core.data import DataSpec
from advisor.reporting.comparison import print_comparison, print_evaluation


def printed(show: object, found: object) -> str:
    console = Console(width=160, record=True, file=io.StringIO())
    show(console, found)  # type: ignore[operator]
    return console.export_text()


def test_everything_that_a_comparison_says() -> None:
    runs = tuple(
        ComparedRun(
            *(f"runs/[{name}]", "lora", 1, name, "accuracy", 0.9, 0.85, 0.95),
            *(10, {"no": 0.25}, {"no": 0.75}, (0, 0.1, 0.2, 0.3, 1)),
        )
        for name in "xy"
    )
    found = RunComparison(
        100,
        runs,
        (RunPair(runs[0].name, runs[1].name, 0.02, -0.01, 0.05, 4, 6, 8, 82, 1.2, 0.31, 0.04),),
        (ErrorGroup("no", 50, (3, 4)),),
        (ErrorGroup("5 to 30 characters", 25, (1, 2)),),
        {runs[0].name: (ErrorWord("dull", 8, 6, 7.5, 0.001),)},
        (HardItem("abc", "not [bold] at all", "no", ("yes", "yes"), 2, 0.07),),
        (SeedGroup("lora", ("a", "b"), (0.9, 0.92), 0.91, 0.014),),
        (SeedDifference("lora", "full", (1, 2), (0.01, 0.03), 0.02, -0.1, 0.14),),
        ("a note",),
    )
    text = printed(print_comparison, found)
    for said in ("runs/[x]", "0.10 / 0.20 / 0.30", "1 – 2", "+2.0 points", "4 (1.2)", "6 / 8", "0.31", "0.04", "differ",
                 "3 (6.0%)", "25% / 75%", "5 to 30 characters", "dull (6 of 8, 7.5x)", "not [bold] at all",
                 "over 2 seeds, lora: 0.910", "over 2 seeds, lora less full: +2.0 points", "note: a note"):  # fmt: skip
        assert said in text, said


def test_language_models_have_no_errors_to_show() -> None:
    runs = tuple(ComparedRun(name, "lora", 1, name, "perplexity", 8.0) for name in "xy")
    text = printed(print_comparison, RunComparison(10, runs, (RunPair("x", "y", -0.5, -0.9, -0.1),)))
    assert "differ" in text and "Errors by class" not in text and "Hardest" not in text


def test_an_evaluation_shows_figures_classes_and_notes() -> None:
    quality = QualityReport(
        40, {"accuracy": MeasuredFigure(0.9, "how", 0.8, 1.0, 40, "only 40 items")},
        (ClassFigures("no", 20, 0.9, 0.8, 0.85), ClassFigures("yes", 20, 0.9, 0.8, 0.85)), ((18, 2), (2, 18)),
    )  # fmt: skip
    found = ModelEvaluation(
        *("runs/x", "lora", DataSpec("a.csv", "csv"), {"eval_loss": 0.4, "accuracy": 0.9}, quality, 2.0, 20.0),
        *("out", ("seen",)),
    )
    text = printed(print_evaluation, found)
    for said in ("lora, 40 items", "held-out loss", "0.900", "only 40 items", "as yes", "20 items per", "note: seen"):
        assert said in text, said
