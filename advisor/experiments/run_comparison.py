"""Runs compared item by item: which errors they share, whether they differ, and what is hard for them."""

from __future__ import annotations

import dataclasses
import itertools
import re
import statistics
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

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
from advisor.core.errors import InputError
from advisor.core.metrics import LABEL, PREDICTED, PROBABILITY, Metric
from advisor.core.stats import student_t_quantile
from advisor.training.data.predictions import ITEM
from advisor.training.quality import DRAWS, LEAST_SAMPLES, LEVEL, SAMPLES, draws, resampled_figures

WORDS_SHOWN, HARDEST_SHOWN = 10, 10
LEAST_ITEMS_WITH_WORD = 5
"""Rarer words say nothing."""
NO_TEXTS = "the texts cannot be read: nothing is said of lengths and words"
TEXT_SHOWN = 160
"""Characters of an item's text."""
WORD = re.compile(r"[^\W\d_]{2,}")


@dataclass(frozen=True)
class RunPredictions:
    """A run's predictions with what is known of it.

    Attributes:
        name: Its folder, as it was named.
        method, seed, setting: As in ``ComparedRun``.
        columns: Of the predictions, in the order of the file.
        label_names: By class index.
    """

    name: str
    method: str
    seed: int
    setting: str
    columns: Mapping[str, NDArray[Any]]
    label_names: tuple[str, ...]


def compare_runs(runs: Sequence[RunPredictions], metric: Metric, texts: Mapping[str, str]) -> RunComparison:
    """Compare runs on the same held-out items.

    Args:
        runs: At least two.
        metric: The figure that is compared: what plans of the task are ranked on.
        texts: Of the items, by their hash; may lack some.

    Raises:
        InputError: fewer than two runs, other items or classes, or no predictions that the metric can be computed from.
    """
    if len(runs) < 2:
        raise InputError(f"a comparison needs at least two runs, but got {len(runs)}", fix="name two folders of runs")
    aligned = _aligned(runs, metric)
    items = len(aligned[0].columns[ITEM])
    samples = _samples(aligned, metric)
    wrong = _wrong(aligned)
    found = tuple(_of_run(run, metric, part) for run, part in zip(aligned, samples, strict=True))
    pairs = itertools.combinations(range(len(aligned)), 2)
    comparison = RunComparison(
        items=items,
        runs=found,
        pairs=tuple(_pair(found, samples, wrong, first, second) for first, second in pairs),
        seeds=tuple(_seed_groups(found)),
        seed_differences=tuple(_seed_differences(found)),
    )
    if wrong is None:
        return comparison
    known = [texts.get(str(item), "") for item in aligned[0].columns[ITEM]]
    comparison = dataclasses.replace(
        comparison,
        classes=tuple(_by_class(aligned[0], wrong)),
        hardest=tuple(_hardest(aligned, wrong, known)),
    )
    if not any(known):
        return dataclasses.replace(comparison, notes=(NO_TEXTS,))
    return dataclasses.replace(
        comparison,
        lengths=tuple(_by_length(known, wrong)),
        words={run.name: tuple(_words(known, row)) for run, row in zip(aligned, wrong, strict=True)},
    )


# --- the same items -------------------------------------------------------------------------------------------------


def _aligned(runs: Sequence[RunPredictions], metric: Metric) -> list[RunPredictions]:
    """The same items in the same order; copies of one item in the order in which each run has them."""
    names = [run.name for run in runs]
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise InputError(f"every run must be named once, but got {twice[0]} more often", fix="name it once")
    first = runs[0]
    for run in runs:
        if not metric.is_in(run.columns):
            raise InputError(
                f"the predictions of {run.name} must have the columns {' and '.join(metric.takes)}, from which"
                f" {metric.title} follows, but they have {', '.join(run.columns)}",
                fix="run the plan again, or leave this run out",
            )
        shared = Counter(first.columns[ITEM].tolist()) & Counter(run.columns[ITEM].tolist())
        counts = [len(one.columns[ITEM]) for one in (first, run)]
        if {shared.total()} != set(counts):
            raise InputError(
                f"runs must be compared on the same held-out items, but {first.name} has {counts[0]}, {run.name}"
                f" has {counts[1]}, and {shared.total()} are the same",
                fix="measure both on one file with advisor evaluate RUN --data FILE, and compare these folders",
            )
        if run.label_names != first.label_names:
            said = " and ".join(f"{one.name} has {', '.join(one.label_names) or 'none'}" for one in (first, run))
            raise InputError(f"runs must have the same classes, but {said}", fix="compare runs on the same data")
    orders = [np.argsort(run.columns[ITEM].astype(str), kind="stable") for run in runs]
    aligned = [
        RunPredictions(
            *(run.name, run.method, run.seed, run.setting),
            {name: column[order] for name, column in run.columns.items()},
            run.label_names,
        )
        for run, order in zip(runs, orders, strict=True)
    ]
    for run in aligned[1:]:
        if LABEL in run.columns and not np.array_equal(run.columns[LABEL], aligned[0].columns[LABEL]):
            raise InputError(
                f"the same items must have the same labels, but those of {aligned[0].name} and {run.name} differ",
                fix="run both on the same data",
            )
    return aligned


def _wrong(runs: Sequence[RunPredictions]) -> NDArray[np.bool_] | None:
    """Which items each run gets wrong, shape (runs, items); ``None`` for tasks without right and wrong."""
    if not all(LABEL in run.columns and PREDICTED in run.columns and run.label_names for run in runs):
        return None
    if runs[0].columns[LABEL].dtype.kind not in "iub" or runs[0].columns[LABEL].ndim > 1:
        return None
    return np.stack([run.columns[LABEL] != run.columns[PREDICTED] for run in runs])


def _samples(runs: Sequence[RunPredictions], metric: Metric) -> list[NDArray[Any]]:
    """The figure of every run, of the same bootstrap samples of items."""
    items = len(runs[0].columns[ITEM])
    if items < 2:
        return [np.empty(0) for _ in runs]
    count = max(LEAST_SAMPLES, min(SAMPLES, DRAWS // items))
    chunks = [
        [resampled_figures(metric, run.columns, counts) for run in runs] for counts in draws(items, count, seed=0)
    ]
    return [np.concatenate([chunk[index] for chunk in chunks]) for index in range(len(runs))]


def _interval(samples: NDArray[Any]) -> tuple[float | None, float | None]:
    known = samples[np.isfinite(samples)]
    if len(known) < LEAST_SAMPLES:
        return None, None
    low, high = np.quantile(known, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


# --- one run, two runs ------------------------------------------------------------------------------------------------


def _of_run(run: RunPredictions, metric: Metric, samples: NDArray[Any]) -> ComparedRun:
    value, (low, high) = metric.compute(run.columns), _interval(samples)
    errors = error_summary(run)
    return ComparedRun(
        *(run.name, run.method, run.seed, run.setting, metric.name, value, low, high),
        **({} if errors is None else vars(errors)),
    )


@dataclass(frozen=True)
class ErrorSummary:
    """What a classifier gets wrong.

    Attributes:
        errors, true_shares, predicted_shares, overconfidence: As in :class:`advisor.core.comparison.ComparedRun`.
    """

    errors: int
    true_shares: dict[str, float]
    predicted_shares: dict[str, float]
    overconfidence: tuple[float, ...]


def error_summary(run: RunPredictions) -> ErrorSummary | None:
    """What a run gets wrong; ``None`` for tasks without right and wrong."""
    wrong = _wrong([run])
    if wrong is None:
        return None
    mask = wrong[0]
    return ErrorSummary(
        errors=int(mask.sum()),
        true_shares=_shares(run.columns[LABEL][mask], run.label_names),
        predicted_shares=_shares(run.columns[PREDICTED][mask], run.label_names),
        overconfidence=_overconfidence(run, mask),
    )


def _shares(classes: NDArray[Any], names: Sequence[str]) -> dict[str, float]:
    counts = np.bincount(classes.astype(int), minlength=len(names))
    return {name: float(count / max(len(classes), 1)) for name, count in zip(names, counts, strict=True)}


def _overconfidence(run: RunPredictions, mask: NDArray[np.bool_]) -> tuple[float, ...]:
    if PROBABILITY not in run.columns or not mask.any():
        return ()
    said, rows = run.columns[PROBABILITY][mask], np.arange(int(mask.sum()))
    gaps = said[rows, run.columns[PREDICTED][mask]] - said[rows, run.columns[LABEL][mask]]
    return tuple(float(value) for value in np.quantile(gaps, (0, 0.25, 0.5, 0.75, 1)))


def _pair(
    runs: Sequence[ComparedRun],
    samples: Sequence[NDArray[Any]],
    wrong: NDArray[np.bool_] | None,
    first: int,
    second: int,
) -> RunPair:
    low, high = _interval(samples[first] - samples[second])
    names, difference = (runs[first].name, runs[second].name), runs[first].value - runs[second].value
    if wrong is None:
        return RunPair(*names, difference, low, high)
    from sklearn.metrics import cohen_kappa_score

    one, other = wrong[first], wrong[second]
    only_first, only_second = int((one & ~other).sum()), int((other & ~one).sum())
    varies = 0 < one.sum() < len(one) and 0 < other.sum() < len(other)
    return RunPair(
        *(*names, difference, low, high),
        both_wrong=int((one & other).sum()),
        only_first_wrong=only_first,
        only_second_wrong=only_second,
        both_right=int((~one & ~other).sum()),
        expected_both_wrong=float(one.mean() * other.mean() * len(one)),
        kappa=float(cohen_kappa_score(one, other)) if varies else None,
        mcnemar_p=mcnemar_p(only_first, only_second),
    )


def mcnemar_p(only_first: int, only_second: int) -> float:
    """Exact two-sided p-value of McNemar's test: of the items that one run alone gets wrong, half would be each run's.

    Args:
        only_first: Items that the first run alone gets wrong.
        only_second: Items that the second run alone gets wrong.
    """
    from scipy.stats import binomtest

    disagreements = only_first + only_second
    return float(binomtest(only_first, disagreements).pvalue) if disagreements else 1.0


# --- groups of items --------------------------------------------------------------------------------------------------


def _by_class(run: RunPredictions, wrong: NDArray[np.bool_]) -> Iterator[ErrorGroup]:
    for index, name in enumerate(run.label_names):
        yield _group(name, run.columns[LABEL] == index, wrong)


def _group(name: str, inside: NDArray[np.bool_], wrong: NDArray[np.bool_]) -> ErrorGroup:
    return ErrorGroup(name, int(inside.sum()), tuple(int(row[inside].sum()) for row in wrong))


def _by_length(texts: Sequence[str], wrong: NDArray[np.bool_]) -> Iterator[ErrorGroup]:
    """Quarters of the items by length."""
    lengths = np.array([len(text) for text in texts])
    ends = np.unique(np.quantile(lengths, (0.25, 0.5, 0.75, 1.0)).astype(int))
    before = int(lengths.min()) - 1
    for end in ends:
        inside = (lengths > before) & (lengths <= end)
        if inside.any():
            yield _group(f"{before + 1} to {end} characters", inside, wrong)
        before = int(end)


def _words(texts: Sequence[str], wrong: NDArray[np.bool_]) -> list[ErrorWord]:
    """Words of the errors that stand there more often than their items would have it, the least likely ones first."""
    from scipy.stats import hypergeom

    errors, items = int(wrong.sum()), len(texts)
    if not errors:
        return []
    everywhere: Counter[str] = Counter()
    in_errors: Counter[str] = Counter()
    for text, is_wrong in zip(texts, wrong, strict=True):
        words = set(WORD.findall(text.lower()))
        everywhere.update(words)
        if is_wrong:
            in_errors.update(words)
    found = []
    for word, count in in_errors.items():
        ratio = count / everywhere[word] / (errors / items)
        if everywhere[word] >= LEAST_ITEMS_WITH_WORD and ratio > 1:
            p = float(hypergeom.sf(count - 1, items, everywhere[word], errors))
            found.append(ErrorWord(word, everywhere[word], count, ratio, p))
    return sorted(found, key=lambda entry: (entry.p, entry.word))[:WORDS_SHOWN]


def _hardest(runs: Sequence[RunPredictions], wrong: NDArray[np.bool_], texts: Sequence[str]) -> Iterator[HardItem]:
    labels, names = runs[0].columns[LABEL].astype(int), runs[0].label_names
    right = [
        run.columns[PROBABILITY][np.arange(len(labels)), labels] if PROBABILITY in run.columns else 1.0 - row
        for run, row in zip(runs, wrong, strict=True)
    ]
    said, votes = np.mean(right, axis=0), wrong.sum(axis=0)
    for index in np.lexsort((said, -votes))[:HARDEST_SHOWN]:
        if votes[index]:
            yield HardItem(
                item=str(runs[0].columns[ITEM][index]),
                text=texts[index][:TEXT_SHOWN],
                label=names[labels[index]],
                predicted=tuple(names[int(run.columns[PREDICTED][index])] for run in runs),
                wrong=int(votes[index]),
                true_probability=float(said[index]),
            )


# --- seeds ------------------------------------------------------------------------------------------------------------


def _settings(runs: Sequence[ComparedRun]) -> dict[str, list[ComparedRun]]:
    found: dict[str, list[ComparedRun]] = {}
    for run in runs:
        found.setdefault(run.setting, []).append(run)
    return found


def _seed_groups(runs: Sequence[ComparedRun]) -> Iterator[SeedGroup]:
    for members in _settings(runs).values():
        if len(members) > 1:
            values = tuple(run.value for run in members)
            names = tuple(run.name for run in members)
            yield SeedGroup(members[0].method, names, values, statistics.mean(values), statistics.stdev(values))


def _seed_differences(runs: Sequence[ComparedRun]) -> Iterator[SeedDifference]:
    for first, second in itertools.combinations(_settings(runs).values(), 2):
        values = [{run.seed: run.value for run in members} for members in (first, second)]
        seeds = tuple(sorted(values[0].keys() & values[1].keys()))
        if len(seeds) < 2:
            continue
        differences = tuple(values[0][seed] - values[1][seed] for seed in seeds)
        mean = statistics.mean(differences)
        quantile = student_t_quantile((1 + LEVEL) / 2, len(seeds) - 1)
        half = quantile * statistics.stdev(differences) / len(seeds) ** 0.5
        yield SeedDifference(first[0].method, second[0].method, seeds, differences, mean, mean - half, mean + half)
