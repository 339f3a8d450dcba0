"""The LoRA sweep of 548 public runs: which learning rate to take without any run, and after a pair of runs.

Source: thinking-machines-lab/tinker-cookbook, ``tinker_cookbook/recipes/chat_sl/results/sft_sweep.md`` (Apache-2.0): 35
models from 1B to 1T parameters, ranks 1 to 128, one task, one seed, held-out loss after 780 steps of 128 rows.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from advisor.core.stats import student_t_quantile
from advisor.experiments.corpus.tables import SWEEP, corpus_folder

CONSTANT = 3e-4
PAIR = (3e-4, 1e-3)
"""Rates of the two measured runs."""


@dataclass(frozen=True)
class SweptModel:
    """One model of the sweep.

    Attributes:
        name, family: Of the model.
        active_billions: Parameters that a token passes through, from the model's name; ``None`` where it says nothing.
        losses: Held-out loss by learning rate at the highest rank.
        low_rank_losses: The same at the lowest rank.
    """

    name: str
    family: str
    active_billions: float | None
    losses: dict[float, float]
    low_rank_losses: dict[float, float]

    def regret(self, rate: float) -> float:
        """Loss of the recorded rate nearest to ``rate`` over that of the best recorded one, minus 1."""
        nearest = min(self.losses, key=lambda known: abs(math.log(known / rate)))
        return self.losses[nearest] / min(self.losses.values()) - 1


RateRule = Callable[[SweptModel], float]


@dataclass(frozen=True)
class RateScore:
    """One way to choose the rate, over all models.

    Attributes:
        rule: In words.
        mean, largest: Regret: share of the loss above that of the best recorded rate.
    """

    rule: str
    mean: float
    largest: float


def swept_models(table: pd.DataFrame | None = None) -> list[SweptModel]:
    """The models of the sweep that ships."""
    table = pd.read_parquet(corpus_folder() / SWEEP) if table is None else table
    found = []
    for name, runs in table.groupby("model"):
        by_rank = {rank: dict(zip(part.lr, part.test_nll, strict=True)) for rank, part in runs.groupby("rank")}
        found.append(
            SweptModel(
                str(name),
                family_of(str(name)),
                active_billions(str(name)),
                by_rank[max(by_rank)],
                by_rank[min(by_rank)],
            )
        )
    return found


def family_of(name: str) -> str:
    """The models of one publisher and generation: ``Qwen3.5``, ``Llama``, ``Kimi``."""
    base = name.rsplit("/", 1)[-1].removeprefix("NVIDIA-")
    return re.match(r"[A-Za-z]+(?:-oss)?(?:3(?:\.[56])?(?=-))?", base)[0].replace("3.6", "3.5")  # type: ignore[index]


def active_billions(name: str) -> float | None:
    """``"Qwen3-30B-A3B"`` is 3, ``"Llama-3.1-8B"`` is 8."""
    base = name.rsplit("/", 1)[-1]
    active = re.search(r"-A(\d+(?:\.\d+)?)B", base) or re.search(r"(\d+(?:\.\d+)?)[Bb](?![a-z])", base)
    return float(active[1]) if active else None


def size_rules() -> dict[str, RateRule]:
    """What may be chosen: the constant, and a higher rate for small models."""

    def rule(edge: float) -> RateRule:
        return lambda model: 1e-3 if model.active_billions is not None and model.active_billions <= edge else CONSTANT

    return {"constant 3e-4": lambda model: CONSTANT} | {
        f"1e-3 up to {edge:g}B active parameters": rule(edge) for edge in (1.5, 3.5, 4.5, 8.5)
    }


def chosen_rule(models: Sequence[SweptModel]) -> str:
    """The rule with the least mean regret, every family weighing the same; the constant unless another is better with a
    probability of 95 % (one-sided t test over families).
    """
    families = sorted({model.family for model in models})

    def by_family(rule: RateRule) -> np.ndarray:
        means = [[model.regret(rule(model)) for model in models if model.family == family] for family in families]
        return np.array([np.mean(part) for part in means])

    rules = size_rules()
    constant = by_family(rules["constant 3e-4"])
    best, least = "constant 3e-4", 0.0
    for name, rule in rules.items():
        gain = constant - by_family(rule)
        error = student_t_quantile(0.95, len(gain) - 1) * gain.std(ddof=1) / math.sqrt(len(gain))
        if gain.mean() > max(least, error):
            best, least = name, float(gain.mean())
    return best


def judge_rates(models: Sequence[SweptModel]) -> tuple[RateScore, ...]:
    """Whole families left out: the rule is chosen on the others."""
    rules = size_rules()
    nested = []
    for model in models:
        others = [other for other in models if other.family != model.family]
        nested.append(model.regret(rules[chosen_rule(others)](model)))
    scores = [_score(name, [model.regret(rule(model)) for model in models]) for name, rule in rules.items()]
    paired = [model.regret(rate_after_pair(model.low_rank_losses)) for model in models]
    same_rank = [model.regret(rate_after_pair(model.losses)) for model in models]
    return (
        scores[0],
        _score("rule chosen on the other families", nested),
        _score("better of 3e-4 and 1e-3, measured at the lowest rank", paired),
        _score("better of 3e-4 and 1e-3, measured at the highest rank", same_rank),
        _score("best recorded rate (oracle)", [0.0 for _ in models]),
        *scores[1:],
    )


def rate_after_pair(losses: Mapping[float, float]) -> float:
    """The better one of two rates; the constant where one of them diverged or is not recorded."""
    known = [rate for rate in PAIR if rate in losses]
    return min(known, key=lambda rate: losses[rate]) if len(known) == len(PAIR) else CONSTANT


def _score(rule: str, regrets: Sequence[float]) -> RateScore:
    return RateScore(rule, float(np.mean(regrets)), float(np.max(regrets)))
