"""``advisor recommend``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from advisor.cli.options import (
    DURATION,
    NAMES,
    data_options,
    data_source,
    device_option,
    json_option,
    memory_option,
    model_options,
    model_source,
    read_peft_config,
    safety_option,
    speed_options,
    speed_values,
    stacked,
    time_option,
)
from advisor.core.errors import EXIT_NOTHING_FITS

search_options = stacked(
    click.option(
        "--methods", type=NAMES, metavar="A,B", help="Consider only these methods; `advisor methods` lists all."
    ),
    click.option(
        "--effective-batch-size",
        type=click.IntRange(1),
        default=32,
        show_default=True,
        help="Rows per optimizer step, the same for every method.",
    ),
    click.option("--seed", type=int, default=42, show_default=True, help="Training seed."),
)


@click.command("recommend")
@model_options()
@data_options(required=True)
@device_option
@memory_option
@time_option
@safety_option
@click.option(
    "--min-quality", type=float, metavar="X", help="Desired minimum of the metric; reported as a probability."
)
@click.option("--evidence", "evidence_s", type=DURATION, metavar="DURATION", help="Time for short training runs.")
@click.option(
    "--peft-config",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Also consider the method peft with this PEFT configuration (JSON).",
)
@click.option("--epochs", type=click.FloatRange(0, min_open=True), help="Passes over the data, for every method.")
@search_options
@speed_options(chosen=True)
@click.option("--output", "-o", type=click.Path(path_type=Path), metavar="FILE", help="Write the best plan to FILE.")
@click.option("--force", is_flag=True, help="Overwrite an existing --output.")
@json_option
@click.pass_context
def recommend_command(context: click.Context, as_json: bool, output: Path | None, **options: Any) -> None:
    """Recommend how to fine-tune MODEL on DATA within a budget.

    Prints the plans that fit, best first, why the other methods were rejected, and what to change when nothing fits
    (exit code 3). --output writes the best plan as a file for `advisor run`. Without --evidence the quality estimates
    come from published comparisons and say little about your task; with it, the best plans are trained briefly.

    JSON keys: device_id, budget, considered, evaluated, ranked[] (rank, method, score, tied, reason, largest_ranks,
    strategy, execution, cost), rejected[] (method, reason, smallest_plan), advice[], plan_path.

    \b
    Examples:
      advisor recommend ./my-model --data reviews.csv --text-column text --label-column stars \\
        --memory 8GiB --time 2h --output plan.json
      advisor recommend ./mistral-7b --data chats.jsonl --device rtx-4090 --json
    """
    from advisor.cli.output import answer_console, print_json, progress
    from advisor.core.budget import Budget
    from advisor.pipeline import recommend

    budget = Budget(options["memory_bytes"], options["time_s"], options["min_quality"], options["safety_level"])
    with progress() as on_event:
        recommendation = recommend(
            model_source(options),
            data_source(options),
            budget=budget,
            device=options["device"],
            methods=options["methods"],
            effective_batch_size=options["effective_batch_size"],
            num_train_epochs=options["epochs"],
            evidence_s=options["evidence_s"],
            seed=options["seed"],
            peft_config=read_peft_config(options["peft_config"]),
            speed=speed_values(options),
            output=output,
            force=options["force"],
            on_event=on_event,
        )
    if as_json:
        from advisor.reporting.answers import recommendation_answer

        print_json(recommendation_answer(recommendation, output))
    else:
        from advisor.reporting.recommendation import print_recommendation

        print_recommendation(answer_console(), recommendation)
        if output is not None and recommendation.best is not None:
            click.echo(f"\nwritten to {output}; next: advisor run {output} --output runs/{output.stem}")
    if recommendation.best is None:
        context.exit(EXIT_NOTHING_FITS)
