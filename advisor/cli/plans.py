"""``advisor recommend``, ``tune``, ``show`` and ``run``: find a plan, search for a better one, explain it, train it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from advisor import pipeline
from advisor.cli.options import (
    COUNT,
    DIR,
    DURATION,
    FILE,
    PATH,
    TRAINING_KNOBS,
    N,
    budget_of,
    constraint_options,
    data_options,
    data_source,
    device_option,
    json_option,
    knob_option,
    knob_values,
    memory_option,
    min_quality_option,
    model_options,
    model_source,
    names,
    objective_option,
    option,
    picked,
    safety_option,
    speed_options,
    speed_values,
    stacked,
    switch,
    time_option,
    training_options,
)
from advisor.cli.output import answer_console, print_answer, progress
from advisor.core.errors import EXIT_NOTHING_FITS, InputError
from advisor.core.units import parse_duration_s, parse_energy_j

if TYPE_CHECKING:
    from rich.console import Console

    from advisor.core.run import RunRecord
    from advisor.search.study import TuneResult

_search_options = stacked(
    option("--methods", type=names, metavar="A,B", help="Consider only these; `advisor methods` lists all."),
    knob_option,
    option(
        "--effective-batch-size", type=COUNT, default=32, help="Rows per optimizer step, the same for every method."
    ),
    option("--seed", type=click.IntRange(0, 2**32 - 1), default=42, help="Training seed."),
    training_options,
)
_force_option = option("--force", is_flag=True, help="Overwrite an existing --output.")


@click.command("recommend")
@model_options()
@data_options(required=True)
@device_option
@memory_option
@time_option
@constraint_options
@safety_option
@objective_option
@min_quality_option
@option("--evidence", "evidence_s", **DURATION, help="Time to spend on short training runs.")
@option(
    "--probe/--no-probe",
    default=True,
    help="First fit a linear classifier to frozen features of the rows, at most a tenth of --time and a minute.",
)
@option("--peft-config", **FILE, help="Also consider method peft with this JSON configuration.")
@option(
    "--epochs",
    "num_train_epochs",
    type=click.FloatRange(0, min_open=True),
    help="Passes over the data, for every method.",
)
@_search_options
@speed_options(chosen=True)
@option("--output", "-o", **FILE, help="Write the best plan to FILE.")
@_force_option
@json_option
@click.pass_context
def recommend_command(context: click.Context, as_json: bool, output: Path | None, **options: Any) -> None:
    """Recommend how to fine-tune MODEL within a budget.

    Prints the plans that fit, best first, why the other methods were rejected, and what to change when nothing fits
    (exit code 3). --output writes the best plan as a file for `advisor run`. Where MODEL has weights and the plans are
    for this machine, a linear probe of the labelled rows comes first (one forward pass, nothing is trained): no plan
    is recommended that is not expected to beat it. Without --evidence the other quality estimates come from published
    comparisons and say little about your task; with it, the best plans are trained briefly.

    JSON keys: device_id, objective, budget, considered, evaluated, replays, ranked[] (rank, method, score, tied,
    pareto, reason, largest_ranks, strategy, execution, cost), rejected[] (method, reason, smallest_plan), advice[],
    plan_path; and probe, where one was made.

    \b
    Examples:
      advisor recommend ./my-model --data reviews.csv --text-column text --label-column stars \\
        --memory 8GiB --time 2h --output plan.json
      advisor recommend ./mistral-7b --data chats.jsonl --device rtx-4090 --json
    """
    from advisor.reporting.plans import print_recommendation, recommendation_answer

    with progress() as on_event:
        recommendation = pipeline.recommend(
            model_source(options),
            data_source(options),
            budget=budget_of(options),
            knobs=knob_values(options, "num_train_epochs", *TRAINING_KNOBS),
            speed=pipeline.SpeedKnobs(**speed_values(options)),
            output=output,
            on_event=on_event,
            **picked(options, "device", "methods", "effective_batch_size", "evidence_s", "probe", "seed", "force"),
            objective=options["objective"],
        )
    print_answer(recommendation, as_json, print_recommendation, lambda answer: recommendation_answer(answer, output))
    if recommendation.best is None:
        context.exit(EXIT_NOTHING_FITS)
    if output is not None and not as_json:
        click.echo(f"\nwritten to {output}; next: advisor run {output} --output runs/{output.stem}")


@click.command("tune")
@model_options()
@data_options(required=True)
@memory_option
@time_option
@constraint_options
@option(
    "--budget",
    "wall_clock_s",
    type=parse_duration_s,
    default="1h",
    metavar="DURATION",
    help="Wall-clock budget of this call: data, predictions, trials and the final run.",
)
@option("--trials", "max_trials", **N, help="Stop after N trials.")
@option(
    "--energy-budget",
    "energy_budget_j",
    type=parse_energy_j,
    metavar="ENERGY",
    help="Most energy of this call's runs: 40kJ, 20Wh; where the device reports it.",
)
@option(
    "--pack",
    default="auto",
    metavar="auto|off|N",
    help="LoRA and QLoRA trials trained in one pass over the frozen model: where that is predicted to save time, never,"
    " or up to N wherever they may be packed.",
)
@objective_option
@min_quality_option
@option("--study-dir", required=True, **DIR, help="Folder of the study.")
@option("--resume", is_flag=True, help="Continue the study in --study-dir.")
@_search_options
@option("--output", "-o", **FILE, help="Another file for the best plan, which is always DIR/plan.json.")
@_force_option
@json_option
def tune_command(as_json: bool, study_dir: Path, output: Path | None, **options: Any) -> None:
    """Search method, rank and learning rate with trials.

    --memory and --time limit the final run, --budget this call. The recommended method's default runs first, then the
    same at 3, 1/3 and 10 times its learning rate, then other methods and samples. DIR/plan.json is the best plan from
    the first second on, however the call ends. Candidates that cannot fit are never started. Where time allows, the
    best plan is trained on all rows and judged on rows that no trial saw. --resume goes on with all finished trials.

    JSON keys: best, best_trial, best_reason, metric_name, trials[], pareto[], never_started[], ladder_rows, full_rows,
    stopped_because, elapsed_s, study_dir, study_name, final, final_skipped, interrupted, objective,
    leaderboard[], race[], plan_path.

    \b
    Example:
      advisor tune ./my-model --data reviews.csv --text-column text --label-column stars \
        --memory 4GiB --budget 30min --study-dir studies/reviews
    """
    from advisor.core.serialization import to_dict
    from advisor.reporting.study import print_study
    from advisor.search.study import StudyInterrupted

    try:
        with progress() as on_event:
            result = pipeline.tune(
                model_source(options),
                data_source(options),
                study_dir=study_dir,
                budget=budget_of(options),
                knobs=knob_values(options, *TRAINING_KNOBS),
                output=output,
                on_event=on_event,
                **picked(options, "objective", "energy_budget_j", "pack"),
                **picked(options, "wall_clock_s", "methods", "max_trials", "effective_batch_size", "seed"),
                **picked(options, "resume", "force"),
            )
    except StudyInterrupted as stop:
        if not as_json:
            print_study(answer_console(), stop.result)
        raise
    target = output or study_dir / "plan.json"

    def document(answer: TuneResult) -> dict[str, Any]:
        return {**to_dict(answer), "plan_path": str(target)}

    print_answer(result, as_json, print_study, document)
    if not as_json:
        ran = f"the trained model is in {study_dir / 'final'}" if result.final is not None else ""
        click.echo(f"\nwritten to {target}; {ran or f'next: advisor run {target} --output runs/{study_dir.name}'}")


@click.command("show")
@click.argument("plan", type=PATH)
@option("--why", is_flag=True, help="Show where each predicted number comes from.")
@json_option
def show_command(plan: Path, why: bool, as_json: bool) -> None:
    """Show a PLAN, and why its numbers are what they are.

    PLAN is a plan.json, or the folder of a run or a study that holds one. Nothing is computed: everything is read from
    the file, whatever version wrote it. --why names the source of each number: memory by trace, count and allocator;
    times by calibration, probe or datasheet; quality by its state and its parts; and every limit beside what is needed.

    JSON keys: plan, and with --why why[] (section, figure, value, low, high, evidence, origin, shown, shown_interval).

    \b
    Example:
      advisor show plan.json --why
    """
    from advisor.core.plan import load_plan
    from advisor.reporting.why import print_plan, show_answer

    file = plan / "plan.json" if plan.is_dir() else plan
    print_answer(
        load_plan(file),
        as_json,
        lambda console, answer: print_plan(console, answer, title=str(plan), why=why),
        lambda answer: show_answer(answer, why=why),
    )


@click.command("run")
@click.argument("plan", type=PATH)
@option("--output", "-o", required=True, **DIR, help="New folder for the results.")
@option("--resume", is_flag=True, help="Continue the interrupted run in --output.")
@option("--any-device", is_flag=True, help="Run on this machine even if the plan was made for another device.")
@option("--accept-changes", is_flag=True, help="Train although model or data have changed since the plan was made.")
@switch(
    "benchmark",
    True,
    "Measure inference, drift and intervals after training, and keep predictions by item; takes at most a tenth of the"
    " run for inference (1 to 30 s) and a few seconds for the rest.",
)
@option("--general-text", metavar="DATA", help="Text for the perplexity before and after training (forgetting).")
@option(
    "--profile", is_flag=True, help="Afterwards, profile a step: time by families of operators, beside the trace's."
)
@option("--chrome-trace", is_flag=True, help="With --profile: keep the profiler's events in DIR/trace.json.")
@json_option
def run_command(plan: Path, output: Path, as_json: bool, profile: bool, chrome_trace: bool, **options: Any) -> None:
    """Train a plan and compare it with its prediction.

    Trains, evaluates and saves. After Ctrl-C or a crash, --resume continues from the last checkpoint. DIR receives the
    trained adapter or model (safetensors), checkpoints, predictions.parquet with what the model says of every held-out
    item, and record.json with all measurements. A run whose loss is no longer a number is a failure.
    A model or data that changed since the plan was made is refused, unless --accept-changes is given.

    JSON keys: outcome, method, metrics, verifications[] (quantity, predicted, measured, low, high, verdict,
    relative_error), predicted, measured, benchmark (quality, efficiency, drift, forgetting, warnings[], notes[]),
    device_id, output_dir, profile (with --profile: step_s, predicted_s, families[] (family, phase, measured_s,
    predicted_s)).

    \b
    Example:
      advisor run plan.json --output runs/first
    """
    from advisor.core.plan import load_plan
    from advisor.reporting.profile import print_profile
    from advisor.reporting.run import print_run, run_answer

    if chrome_trace and not profile:
        raise InputError("--chrome-trace is part of a profile, but --profile was not given", fix="add --profile")
    if profile:
        pipeline.check_takes_steps(load_plan(plan).strategy.method)
    with progress() as on_event:
        record = pipeline.run(plan, output, on_event=on_event, **options)
        found = (
            pipeline.profile_run(record.plan, output, chrome_trace=chrome_trace, on_event=on_event) if profile else None
        )

    def show(console: Console, answer: RunRecord) -> None:
        print_run(console, answer)
        if found is not None:
            print_profile(console, found)

    def document(answer: RunRecord) -> dict[str, Any]:
        return run_answer(answer, found)

    print_answer(record, as_json, show, document)
    if not as_json:
        click.echo(f"\nresult and record.json are in {output}")
