"""Tuning: an Optuna study over method, rank and relative learning rate, under memory and time budgets.

``tune_study`` is the one door. Optuna is imported inside the functions that need it, so that importing this is cheap.
"""

from advisor.search.study.records import (
    Evaluation,
    ExceededLimit,
    FinalRun,
    NeverStarted,
    ParetoPoint,
    RacePoint,
    TrialSummary,
    TuneResult,
)
from advisor.search.study.tune import StudyInterrupted, tune_study

__all__ = [
    "Evaluation",
    "ExceededLimit",
    "FinalRun",
    "NeverStarted",
    "ParetoPoint",
    "RacePoint",
    "StudyInterrupted",
    "TrialSummary",
    "TuneResult",
    "tune_study",
]
