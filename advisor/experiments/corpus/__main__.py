"""The tables of docs/how-it-works/quality.md, and the fit that ships.

python -m advisor.experiments.corpus judge
python -m advisor.experiments.corpus fit
"""

from __future__ import annotations

import argparse
import math
import sys
import warnings
from collections.abc import Sequence

from advisor.core.published_tables import QUALITY_MODEL_FILE
from advisor.core.serialization import to_json
from advisor.core.store import write_text_atomically
from advisor.experiments.corpus.fitting import earlier_runs, fit, recorded_runs
from advisor.experiments.corpus.judge import QualityJudgement, RuleScore, judge
from advisor.experiments.corpus.rates import RateScore, judge_rates, swept_models
from advisor.experiments.corpus.tables import corpus_folder, load_corpus

COLUMNS = "| rule | sees | rank | better half | error | inside 90 % | half-width | regret | p90 |"


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m advisor.experiments.corpus", description=__doc__)
    parser.add_argument("what", choices=("judge", "fit"))
    options = parser.parse_args(arguments)
    warnings.filterwarnings("ignore")  # that a Gaussian process found no interior optimum is no news to anybody
    runs = [*recorded_runs(load_corpus()), *earlier_runs()]
    if options.what == "fit":
        path = corpus_folder() / QUALITY_MODEL_FILE
        model = fit(runs)
        write_text_atomically(path, to_json(model))
        print(f"{path}: {model.runs} runs of {model.sources} sources, interval factor {model.conformal:.2f}")
        return 0
    print("\n".join([*_quality(judge(runs)), "", *_rates(judge_rates(swept_models()))]))
    return 0


def _quality(found: QualityJudgement) -> list[str]:
    ceiling = "–" if found.seed_ceiling is None else f"{found.seed_ceiling:.2f}"
    noise = "–" if found.seed_sd is None else f"{100 * found.seed_sd:.1f} points"
    return [
        f"{found.runs} runs of {found.tasks} tasks, {found.sources} sources; {found.at_chance} did not reach onset.",
        f"Between two seeds ({found.seed_pairs} pairs): Spearman {ceiling}, standard deviation {noise}.",
        "",
        "One source left out:",
        "",
        *_table(found.by_source),
        "",
        "One strategy left out:",
        "",
        *_table(found.by_method),
    ]


def _table(scores: Sequence[RuleScore]) -> list[str]:
    judged = scores[0]
    lines = [COLUMNS, "|---" * COLUMNS.count(" | ") + "|---|"]
    for item in scores:
        cells = [
            item.rule,
            f"{item.cost_share:.0%}",
            _ratio(item.spearman),
            _ratio(item.better_half),
            _points(item.mae),
            "–" if item.coverage is None else f"{item.coverage:.0%}",
            _points(item.half_width),
            _points(item.regret_mean),
            _points(item.regret_p90),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return [*lines, "", f"{judged.runs} runs; order and regret over {judged.tasks} tasks that reached onset."]


def _rates(scores: Sequence[RateScore]) -> list[str]:
    lines = ["| learning rate of 35 swept models | mean regret | largest |", "|---|---|---|"]
    return [*lines, *(f"| {item.rule} | {item.mean:.2%} | {item.largest:.2%} |" for item in scores)]


def _ratio(value: float | None) -> str:
    return "–" if value is None or math.isnan(value) else f"{value:.2f}"


def _points(value: float | None) -> str:
    return "–" if value is None or math.isnan(value) else f"{100 * value:.1f}"


if __name__ == "__main__":
    sys.exit(main())
