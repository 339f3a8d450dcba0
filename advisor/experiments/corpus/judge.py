"""How good quality predictions are: every source left out, then every strategy, against simpler rules.

Nothing of a left-out source is in the fit, neither are its probes; runs of the same collection under several task names
are left out together. Interval factors are made inside the remaining sources.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from advisor.costmodel.quality.setup_model import FinishedRun, design_matrix, features
from advisor.experiments.corpus.fitting import RecordedRun, fit

FEWEST_RANKED = 4
"""Set-ups of a task from which an order is judged."""


@dataclass(frozen=True)
class Guess:
    """A prediction of one run.

    Attributes:
        value: Accuracy.
        half_width: Of the 90 % interval; ``None`` where the rule gives none.
    """

    value: float
    half_width: float | None = None


Rule = Callable[[Sequence[RecordedRun], Sequence[RecordedRun]], list[Guess]]
"""From the runs that may be fitted to, and those of the left-out task: one guess for each of the latter."""


@dataclass(frozen=True)
class RuleScore:
    """One rule over all left-out tasks.

    Attributes:
        rule: In words.
        cost_share: Of the full runs' processor time that it takes, the probe's included.
        spearman: Median over tasks that reached onset; ``None`` where the rule gives all set-ups the same value.
        better_half: The same among the better half of the set-ups.
        mae: Mean absolute error over runs, every source weighing the same; accuracy (0-1).
        coverage: Share of the runs inside the 90 % interval, every source weighing the same.
        half_width: Median of the intervals.
        regret_mean, regret_p90: Accuracy of the best recorded set-up minus that of the set-up ranked first.
        tasks, runs: How many were judged.
    """

    rule: str
    cost_share: float
    spearman: float | None
    better_half: float | None
    mae: float
    coverage: float | None
    half_width: float | None
    regret_mean: float
    regret_p90: float
    tasks: int
    runs: int


@dataclass(frozen=True)
class QualityJudgement:
    """Everything that the table shows.

    Attributes:
        by_source, by_method: Scores with one source, or one strategy, left out.
        seed_ceiling: Spearman of first against second seeds over all pairs; ``None`` with fewer than four pairs.
        seed_sd: Standard deviation of accuracy between seeds of one set-up; ``None`` without pairs.
        seed_pairs: How many there are.
        runs, tasks, sources, at_chance: Of the corpus; ``at_chance`` runs reached no onset.
    """

    by_source: tuple[RuleScore, ...]
    by_method: tuple[RuleScore, ...]
    seed_ceiling: float | None
    seed_sd: float | None
    seed_pairs: int
    runs: int
    tasks: int
    sources: int
    at_chance: int


# --- rules ----------------------------------------------------------------------------------------------------------


def linear_rule(known: Sequence[RecordedRun], asked: Sequence[RecordedRun]) -> list[Guess]:
    """The shipped kind of model: coefficients over the probe."""
    model = fit(known)
    predicted = [model.predict(run.set_up) for run in asked]
    return [Guess(item.value, item.half_width) for item in predicted]


def one_run_rule(known: Sequence[RecordedRun], asked: Sequence[RecordedRun]) -> list[Guess]:
    """The same, told the result of the task's cheapest run that left chance level."""
    model, found = fit(known), []
    usable = sorted((run for run in asked if run.reached_onset), key=lambda run: run.cpu_s)
    for run in asked:
        others = [other for other in usable if other is not run][:1]
        told = [FinishedRun(other.set_up, other.accuracy, other.items) for other in others]
        item = model.predict(run.set_up, told)
        found.append(Guess(item.value, item.half_width))
    return found


def early_loss_rule(known: Sequence[RecordedRun], asked: Sequence[RecordedRun]) -> list[Guess]:
    """The model over the probe, and what the held-out loss after a quarter of the steps adds to it."""
    model = fit(known, conformal=False)
    known = [run for run in known if run.has_curve]
    left = [run.accuracy - model.predict(run.set_up).value for run in known]
    from sklearn.linear_model import RidgeCV

    stacked = RidgeCV(alphas=(0.1, 1.0, 10.0)).fit([_early(run) for run in known], left)
    added = stacked.predict([_early(run) for run in asked])
    return [Guess(model.predict(run.set_up).value + float(more)) for run, more in zip(asked, added, strict=True)]


def _early(run: RecordedRun) -> list[float]:
    learned = math.log(max(run.early_loss, 1e-3) / run.chance_loss)
    return [learned, run.early_accuracy - run.set_up.chance, learned * run.set_up.skill]


def _sklearn_rule(make: Callable[[], Any]) -> Rule:
    def rule(known: Sequence[RecordedRun], asked: Sequence[RecordedRun]) -> list[Guess]:
        names = tuple(dict.fromkeys(name for run in known for name in features(run.set_up)))
        fitted = make().fit(_matrix(known, names), [run.accuracy - run.set_up.chance for run in known])
        gains = fitted.predict(_matrix(asked, names))
        return [Guess(run.set_up.chance + float(gain)) for run, gain in zip(asked, gains, strict=True)]

    return rule


def _matrix(runs: Sequence[RecordedRun], names: tuple[str, ...]) -> NDArray[np.float64]:
    return design_matrix([run.set_up for run in runs], names)


def _gaussian_process() -> Any:
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel

    kernel = ConstantKernel(0.01) * RBF(3.0, (0.5, 30.0)) + WhiteKernel(0.01, (1e-4, 0.1))
    return GaussianProcessRegressor(kernel, normalize_y=True, random_state=0)


def _boosting() -> Any:
    from sklearn.ensemble import GradientBoostingRegressor

    return GradientBoostingRegressor(n_estimators=80, max_depth=2, learning_rate=0.08, subsample=0.7, random_state=0)


def prior_rule(known: Sequence[RecordedRun], asked: Sequence[RecordedRun]) -> list[Guess]:
    """What is known without looking at the task: the mean gain over chance of the same variant."""
    gains: dict[str, list[float]] = {}
    for run in known:
        gains.setdefault(run.variant, []).append(run.accuracy - run.set_up.chance)
    overall = float(np.mean([run.accuracy - run.set_up.chance for run in known]))
    return [Guess(run.set_up.chance + float(np.mean(gains.get(run.variant, [overall])))) for run in asked]


def probe_rule(known: Sequence[RecordedRun], asked: Sequence[RecordedRun]) -> list[Guess]:
    """The accuracy of the probe for every set-up."""
    return [Guess(run.set_up.probe) for run in asked]


def last_value_rule(known: Sequence[RecordedRun], asked: Sequence[RecordedRun]) -> list[Guess]:
    """The accuracy after a quarter of the steps."""
    return [Guess(run.early_accuracy) for run in asked]


def two_point_rule(known: Sequence[RecordedRun], asked: Sequence[RecordedRun]) -> list[Guess]:
    """The power law through the held-out losses after a quarter and half of the steps, as accuracy by the fitted
    relation of loss and accuracy.
    """
    known = [run for run in known if run.has_curve]
    share = [min(run.loss / run.chance_loss, 1.2) for run in known]
    slope = np.polyfit(share, [(run.accuracy - run.set_up.chance) / (1 - run.set_up.chance) for run in known], 1)
    found = []
    for run in asked:
        ratio = min(run.middle_loss / max(run.early_loss, 1e-3), 1.2)
        final = min(run.middle_loss * ratio, 1.2 * run.chance_loss)
        gain = float(np.polyval(slope, final / run.chance_loss))
        found.append(Guess(min(max(run.set_up.chance + (1 - run.set_up.chance) * gain, 0.0), 1.0)))
    return found


def top_k_rule(known: Sequence[RecordedRun], asked: Sequence[RecordedRun]) -> list[Guess]:
    """One rung of successive halving: order by the held-out loss after a quarter of the steps."""
    return [Guess(-run.early_loss) for run in asked]


JudgedRule = tuple[str, Rule, float, bool]

RULES: tuple[JudgedRule, ...] = (
    ("linear model over the probe", linear_rule, 0.0, True),
    ("... told one run of the task", one_run_rule, 0.0, True),
    ("... with the held-out loss at 25 %", early_loss_rule, 0.25, True),
    ("Gaussian process over the probe", _sklearn_rule(_gaussian_process), 0.0, True),
    ("gradient boosting over the probe", _sklearn_rule(_boosting), 0.0, True),
    ("prior only (mean of the strategy)", prior_rule, 0.0, True),
    ("the probe itself", probe_rule, 0.0, True),
    ("last value at 25 %", last_value_rule, 0.25, True),
    ("two-point slope at 50 %", two_point_rule, 0.5, True),
    ("one rung at 25 %, top 1", top_k_rule, 0.25, False),
)
"""In words, the rule, the share of every run that it sees, and whether its values are accuracies."""


# --- judging --------------------------------------------------------------------------------------------------------


def judge(runs: Sequence[RecordedRun], rules: Sequence[JudgedRule] | None = None) -> QualityJudgement:
    """All rules, with one source left out at a time, and with one strategy left out at a time. Runs without a curve are
    fitted to, but not judged.
    """
    rules = rules or RULES
    judged = [run for run in runs if run.has_curve]
    first, second = seed_pairs(judged)
    noise = np.array(first) - np.array(second)
    return QualityJudgement(
        by_source=tuple(_scores(runs, lambda run: run.source, rules)),
        by_method=tuple(_scores(runs, lambda run: run.set_up.method, rules)),
        seed_ceiling=_spearman(first, second) if len(first) >= FEWEST_RANKED else None,
        seed_sd=float(math.sqrt((noise**2).mean() / 2)) if len(first) else None,
        seed_pairs=len(first),
        runs=len(judged),
        tasks=len({run.task for run in judged}),
        sources=len({run.source for run in judged}),
        at_chance=sum(not run.reached_onset for run in judged),
    )


def seed_pairs(runs: Sequence[RecordedRun]) -> tuple[list[float], list[float]]:
    """Accuracies, above the probe of the task, of set-ups that were run with both seeds."""
    by_set_up: dict[Any, list[RecordedRun]] = {}
    for run in runs:
        by_set_up.setdefault((run.task, run.variant, run.set_up.lr_rel), []).append(run)
    pairs = [found for found in by_set_up.values() if len({run.seed for run in found}) >= 2]
    return (
        [pair[0].accuracy - pair[0].set_up.probe for pair in pairs],
        [pair[1].accuracy - pair[1].set_up.probe for pair in pairs],
    )


def _scores(
    runs: Sequence[RecordedRun], group: Callable[[RecordedRun], str], rules: Sequence[JudgedRule]
) -> Iterator[RuleScore]:
    names = sorted({group(run) for run in runs if run.has_curve})
    for title, rule, share, is_accuracy in rules:
        guessed: list[tuple[RecordedRun, Guess]] = []
        for name in names:
            asked = [run for run in runs if group(run) == name and run.has_curve]
            known = [run for run in runs if group(run) != name]
            guessed += zip(asked, _by_task(rule, known, asked), strict=True)
        yield _score(title, share, guessed, is_accuracy)


def _by_task(rule: Rule, known: Sequence[RecordedRun], asked: Sequence[RecordedRun]) -> list[Guess]:
    """A rule may use other runs of the same task, but not of other left-out tasks."""
    found: dict[int, Guess] = {}
    for task in {run.task for run in asked}:
        mine = [run for run in asked if run.task == task]
        found |= {id(run): guess for run, guess in zip(mine, rule(known, mine), strict=True)}
    return [found[id(run)] for run in asked]


def _score(title: str, share: float, guessed: Sequence[tuple[RecordedRun, Guess]], is_accuracy: bool) -> RuleScore:
    orders, better, regrets = [], [], []
    for task in sorted({run.task for run, _ in guessed}):
        mine = [(run, guess) for run, guess in guessed if run.task == task]
        if len(mine) < FEWEST_RANKED or not any(run.reached_onset for run, _ in mine):
            continue
        true, values = [run.accuracy for run, _ in mine], [guess.value for _, guess in mine]
        if len(set(values)) > 1 and len(set(true)) > 1:
            orders.append(_spearman(values, true))
            top = sorted(range(len(true)), key=lambda index: -true[index])[: max(FEWEST_RANKED, len(true) // 2)]
            if len({true[i] for i in top}) > 1 and len({values[i] for i in top}) > 1:
                better.append(_spearman([values[i] for i in top], [true[i] for i in top]))
        best = max(values)
        chosen = [accuracy for accuracy, value in zip(true, values, strict=True) if value == best]
        regrets.append(max(true) - float(np.mean(chosen)))
    weights = _weights([run.source for run, _ in guessed])
    errors = np.array([abs(run.accuracy - guess.value) for run, guess in guessed])
    widths = [guess.half_width for _, guess in guessed if guess.half_width is not None]
    inside = [error <= width for error, width in zip(errors, widths, strict=True)] if widths else []
    return RuleScore(
        title, share, float(np.median(orders)) if orders else None, float(np.median(better)) if better else None,
        float(errors @ weights) if is_accuracy else math.nan,
        float(np.array(inside, float) @ weights) if widths else None, float(np.median(widths)) if widths else None,
        float(np.mean(regrets)) if regrets else math.nan,
        float(np.quantile(regrets, 0.9)) if regrets else math.nan,
        len(regrets), len(guessed),
    )  # fmt: skip


def _weights(groups: Sequence[str]) -> NDArray[np.float64]:
    counts = {name: groups.count(name) for name in set(groups)}
    return np.array([1 / counts[name] for name in groups]) / len(counts)


def _spearman(one: Sequence[float], other: Sequence[float]) -> float:
    from scipy.stats import spearmanr

    return float(spearmanr(one, other).statistic)
