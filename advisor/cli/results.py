"""``advisor evaluate`` and ``advisor compare``: what finished runs are worth, and how they differ."""

from __future__ import annotations

from pathlib import Path

import click

from advisor import pipeline
from advisor.cli.options import DIR, PATH, N, json_option, option
from advisor.cli.output import print_answer, progress


@click.command("evaluate")
@click.argument("run", type=PATH)
@option("--data", required=True, metavar="FILE", help="Data with the columns of the training data.")
@option("--max-rows", **N, help="Evaluate on at most N rows.")
@option("--output", "-o", "output_dir", **DIR, show_default="RUN/evaluations/<name of the data>", help="New folder.")
@option("--accept-changes", is_flag=True, help="Measure although the base model's files have changed since the run.")
@json_option
def evaluate_command(
    run: Path, data: str, max_rows: int | None, output_dir: Path | None, accept_changes: bool, as_json: bool
) -> None:
    """Measure the model of a finished RUN on other data.

    Columns, format and labels are read as the training data was, which must still be there: it says which classes there
    are, and rows that were trained on are counted. The same figures as in `advisor run`, with bootstrap intervals over
    items. DIR receives evaluation.json and predictions.parquet, and can be given to `advisor compare`.

    JSON keys: run, method, data, metrics, quality (items, figures, classes[], confusion[], reliability[], notes[]),
    evaluation_s, samples_per_s, output_dir, notes[], schema_version.

    \b
    Example:
      advisor evaluate runs/first --data new-reviews.csv
    """
    from advisor.reporting.comparison import print_evaluation

    with progress() as on_event:
        found = pipeline.evaluate(
            run, data, output_dir=output_dir, max_rows=max_rows, accept_changes=accept_changes, on_event=on_event
        )
    print_answer(found, as_json, print_evaluation)


@click.command("compare")
@click.argument("runs", nargs=-1, required=True, type=PATH, metavar="RUN RUN...")
@json_option
def compare_command(runs: tuple[Path, ...], as_json: bool) -> None:
    """Compare finished runs item by item.

    RUN is the folder of a finished run or of `advisor evaluate`; all must have been measured on the same items. Shows
    the errors per class, how errors overlap (Cohen's kappa of being wrong), whether two runs differ (exact McNemar
    test, paired bootstrap over items), which classes errors have and are taken for, over-confidence (probability of the
    predicted class less that of the true one), errors by text length, words over-represented in errors, and the hardest
    items. Runs that differ by their seed alone are also summed up over seeds, apart from the intervals over items.

    JSON keys: items, runs[], pairs[], classes[], lengths[], words, hardest[], seeds[], seed_differences[], notes[].

    \b
    Example:
      advisor compare runs/lora runs/full
    """
    from advisor.reporting.comparison import print_comparison

    print_answer(pipeline.compare(runs), as_json, print_comparison)
