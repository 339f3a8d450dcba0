"""``advisor bench``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from advisor.cli.options import NAMES, data_options, data_source, json_option, model_options, model_source

if TYPE_CHECKING:
    from advisor.experiments.speed.compare import SpeedComparison

SUITES = ("speed",)


@click.command("bench")
@click.argument("suite", type=click.Choice(SUITES))
@model_options()
@data_options(required=True)
@click.option("--methods", type=NAMES, default="lora,full", show_default=True, metavar="A,B", help="One table each.")
@click.option("--rows", "train_rows", type=click.IntRange(8), default=256, show_default=True, help="Rows per training.")
@click.option("--eval-rows", type=click.IntRange(2), default=400, show_default=True, help="Held-out rows.")
@click.option("--seeds", type=click.IntRange(1), default=3, show_default=True, help="Rounds; noise needs three.")
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Keep a record of every training here; the same command then runs only those that are missing.",
)
@click.option("--resume/--no-resume", default=True, show_default=True, help="With --output: keep earlier trainings.")
@json_option
def bench_command(suite: str, as_json: bool, **options: Any) -> None:
    """Benchmark training on this machine: a SUITE with MODEL on DATA.

    speed: the recommended plan of each method alternates with the published recipe (every row padded to 128 tokens)
    and the plain Trainer (its own collator, the same batch). Samples per second and held-out quality of
    each, over several seeds. Every training runs in a process of its own; one that fails does not end the others. The
    rounds that every arm completed are compared, also after Ctrl-C.

    JSON keys: suite, comparisons[] (method, plan, recipes[], runs[] (arm, seed, rows, training_s, metrics), contrasts[]
    (recipe, ratio, lowest, highest, differences, noise)).

    Exit codes: 0; 1 when a training did not complete; 2 for bad input; 130 for Ctrl-C.

    \b
    Example:
      advisor bench speed ./minilm --data movie-sentences --methods lora,full --seeds 3
    """
    from advisor.cli.output import answer_console, print_json, progress
    from advisor.pipeline import bench
    from advisor.reporting.speed import print_speed

    comparisons: list[SpeedComparison] = []
    try:
        with progress() as on_event:
            bench(
                suite,
                model_source(options),
                data_source(options),
                methods=options["methods"],
                train_rows=options["train_rows"],
                eval_rows=options["eval_rows"],
                seeds=options["seeds"],
                output=options["output"],
                resume=options["resume"],
                on_comparison=comparisons.append,
                on_event=on_event,
            )
    finally:  # what was compared before a failure or Ctrl-C is shown all the same
        if comparisons and as_json:
            print_json({"suite": suite, "comparisons": comparisons})
        elif comparisons:
            for comparison in comparisons:
                print_speed(answer_console(), comparison)
