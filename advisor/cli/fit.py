"""``advisor fit``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from advisor.cli.options import (
    device_option,
    json_option,
    memory_option,
    model_options,
    model_source,
    read_peft_config,
    safety_option,
    stacked,
)
from advisor.core.errors import EXIT_NOTHING_FITS

_point_options = stacked(
    click.option(
        "--seq-length",
        "--max-seq-length",
        "seq_length",
        type=click.IntRange(1),
        metavar="N",
        show_default="128",
        help="Tokens per row while searching for the largest batch and rank.",
    ),
    click.option(
        "--micro-batch-size",
        type=click.IntRange(1),
        default=1,
        show_default=True,
        help="Rows per forward pass while searching for the largest length and rank.",
    ),
    click.option("--rank", type=click.IntRange(1), help="Adapter rank instead of each method's default."),
    click.option(
        "--padding/--no-padding", "padded", default=True, show_default=True, help="Whether batches contain padding."
    ),
    click.option("--num-labels", type=click.IntRange(2), default=2, show_default=True, help="Number of classes."),
)


@click.command("fit")
@model_options()
@memory_option
@device_option
@click.option("--method", "methods", multiple=True, metavar="NAME", help="Consider only this method; repeatable.")
@click.option(
    "--peft-config", type=click.Path(path_type=Path), metavar="FILE", help="Also consider the method peft (JSON)."
)
@_point_options
@safety_option
@click.option("--all-setups", is_flag=True, help="Also show smaller data types and optimizers when one fits.")
@click.option("--cards/--no-cards", default=True, show_default=True, help="Find the smallest GPU for each set-up.")
@json_option
@click.pass_context
def fit_command(context: click.Context, as_json: bool, **options: Any) -> None:
    """Find the largest batch, length and rank that fit into a memory size, per method, and the smallest GPU.

    Nothing is downloaded or trained; a bare config.json is enough. Each value is maximised while the others stay at
    --micro-batch-size, --seq-length and --rank; lengths are multiples of 8, to which batches are padded. Exit code 3
    when nothing fits at all.

    JSON keys: device_id, question, methods[] (method, strategy, setups[] with switches, memory_bytes, fits,
    micro_batch, seq_length, rank, card; problems[], reason), smallest, considered.

    \b
    Examples:
      advisor fit ./mistral-7b/config.json --memory 24GB --device rtx-4090 --seq-length 1024
      advisor fit ./bert-base --memory 8GiB --device rtx-4060 --method lora --method full
    """
    from advisor.cli.output import answer_console, print_json, progress
    from advisor.core.budget import Budget
    from advisor.pipeline import fit

    with progress() as on_event:
        answer = fit(
            model_source(options),
            budget=Budget(memory_bytes=options["memory_bytes"], safety_level=options["safety_level"]),
            device=options["device"],
            methods=options["methods"] or None,
            micro_batch_size=options["micro_batch_size"],
            seq_length=options["seq_length"],
            rank=options["rank"],
            padded=options["padded"],
            num_labels=options["num_labels"],
            peft_config=read_peft_config(options["peft_config"]),
            cards=options["cards"],
            all_setups=options["all_setups"],
            on_event=on_event,
        )
    from advisor.reporting.fit import fit_answer, print_fit

    if as_json:
        print_json(fit_answer(answer))
    else:
        print_fit(answer_console(), answer)
    if not answer.fits:
        context.exit(EXIT_NOTHING_FITS)
