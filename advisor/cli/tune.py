"""``advisor tune``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from advisor.cli.options import (
    DURATION,
    data_options,
    data_source,
    json_option,
    memory_option,
    model_options,
    model_source,
    time_option,
)
from advisor.cli.recommend import search_options


@click.command("tune")
@model_options()
@data_options(required=True)
@memory_option
@time_option
@click.option(
    "--budget",
    "wall_clock_s",
    type=DURATION,
    default="1h",
    show_default=True,
    metavar="DURATION",
    help="Wall-clock budget of the study, planning included.",
)
@click.option("--trials", "max_trials", type=click.IntRange(1), metavar="N", help="Stop after N trials.")
@click.option("--study-dir", required=True, type=click.Path(path_type=Path), metavar="DIR", help="Folder of the study.")
@click.option("--resume", is_flag=True, help="Continue the study in --study-dir.")
@search_options
@click.option(
    "--output",
    "-o",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="File for the best plan; default DIR/plan.json.",
)
@click.option("--force", is_flag=True, help="Overwrite an existing --output.")
@json_option
def tune_command(as_json: bool, study_dir: Path, output: Path | None, force: bool, **options: Any) -> None:
    """Search method, rank and learning rate with training trials; --memory and --time bound the final run.

    Candidates that cannot fit are never started. Every trial runs in its own process. --resume continues a killed study
    without losing finished trials. The result is a plan for `advisor run`.

    JSON keys: best, best_trial, metric_name, trials[], pareto[], never_started[], ladder_rows, full_rows,
    stopped_because, elapsed_s, study_dir, study_name, plan_path.

    \b
    Example:
      advisor tune ./my-model --data reviews.csv --text-column text --label-column stars \\
        --memory 4GiB --budget 30min --study-dir studies/reviews
    """
    from advisor.cli.output import answer_console, print_json, progress
    from advisor.core.budget import Budget
    from advisor.pipeline import tune

    with progress() as on_event:
        result = tune(
            model_source(options),
            data_source(options),
            study_dir=study_dir,
            budget=Budget(memory_bytes=options["memory_bytes"], time_s=options["time_s"]),
            wall_clock_s=options["wall_clock_s"],
            methods=options["methods"],
            max_trials=options["max_trials"],
            effective_batch_size=options["effective_batch_size"],
            seed=options["seed"],
            resume=options["resume"],
            output=output,
            force=force,
            on_event=on_event,
        )
    target = output or study_dir / "plan.json"
    if as_json:
        from advisor.core.serialization import to_dict

        print_json({**to_dict(result), "plan_path": str(target)})
        return
    from advisor.reporting.study import print_study

    print_study(answer_console(), result)
    click.echo(f"\nwritten to {target}; next: advisor run {target} --output runs/{study_dir.name}")
