"""``advisor bench``: recommended plans against other recipes, and published studies run again."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import click

from advisor import pipeline
from advisor.cli.options import (
    DIR,
    DURATION,
    FILE,
    F,
    N,
    data_options,
    data_source,
    json_option,
    knob,
    model_options,
    model_source,
    names,
    option,
    picked,
    read_peft_config,
    stacked,
    switch,
)
from advisor.cli.output import print_answer, progress
from advisor.core.errors import EXIT_FAILED, EXIT_INTERRUPTED, InputError
from advisor.core.plan import SHORT_DTYPES
from advisor.core.store import write_text_atomically
from advisor.core.units import counted

if TYPE_CHECKING:
    from rich.console import Console

    from advisor.experiments.operator_families import StepFamilies
    from advisor.experiments.speed.compare import SpeedComparison
    from advisor.experiments.suites.definition import SuiteDefinition
    from advisor.experiments.suites.results import SuiteReport

SPEED = "speed"


class SuiteGroup(click.Group):
    """Has a command for every registered suite beside its own."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        from advisor.experiments.suites.definition import SUITES

        return [*self.commands, *SUITES.names()]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in self.commands:
            return self.commands[cmd_name]
        from advisor.experiments.suites.definition import SUITES

        return _suite_command(SUITES.get(cmd_name)) if cmd_name in SUITES else None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        known = self.list_commands(ctx)
        if args and not args[0].startswith("-") and args[0] not in known:
            near = difflib.get_close_matches(args[0], known, n=2, cutoff=0.4)
            hint = f"did you mean {' or '.join(near)}?" if near else f"choose one of {', '.join(known)}"
            raise InputError(f"there is no suite {args[0]!r}", fix=hint)
        return super().resolve_command(ctx, args)


@click.group("bench", cls=SuiteGroup)
def bench_command() -> None:
    """Run a comparison: of recommended plans with other recipes, of your own methods, or of a published study.

    `speed` compares recommended plans with a published recipe and a default Trainer. `profile` compares where the time
    of a step goes, by method. `peft-methods` compares any list of methods and PEFT configurations on your own model and
    data. Every other suite is a published study: its settings are trained with several seeds, its tables are shown with
    our figures beside the published ones, and every claim gets a verdict.

    \b
    Examples:
      advisor bench speed ./minilm --data movie-sentences
      advisor bench columbia-hpml --scale smoke
    """


@bench_command.command("speed")
@model_options()
@data_options(required=True)
@option("--methods", type=names, default="lora,full", metavar="A,B", help="Methods to compare, one table each.")
@option("--rows", "train_rows", type=click.IntRange(8), default=256, help="Rows per training.")
@option("--eval-rows", type=click.IntRange(2), default=400, help="Held-out rows.")
@option("--seeds", type=click.IntRange(1), default=3, help="Rounds; three or more show the noise.")
@option(
    "--output",
    **DIR,
    help="Keep a record of every training here; the same command then runs only those that are missing.",
)
@switch("resume", True, "With --output: keep earlier trainings.")
@json_option
def speed_command(as_json: bool, **options: Any) -> None:
    """Compare recommended plans with other recipes.

    Trains three arms in alternation: the recommended plan of each method, the published recipe (every row
    padded to 128 tokens), and the plain Trainer (its own collator, the same batch size). It compares samples per second
    and held-out quality over several seeds. Every training has a process of its own; when one fails, the others go on.
    Only rounds that all arms completed are compared, also after Ctrl-C.

    JSON keys: suite, comparisons[] (method, plan, recipes[], runs[] (arm, seed, rows, training_s, metrics), contrasts[]
    (recipe, ratio, lowest, highest, differences, noise)).

    Exit codes: 0; 1 when a training did not complete; 2 for bad input; 130 for Ctrl-C.

    \b
    Example:
      advisor bench speed ./minilm --data movie-sentences --methods lora,full --seeds 3
    """
    from advisor.reporting.speed import print_speed

    comparisons: list[SpeedComparison] = []

    def show(console: Console, found: list[SpeedComparison]) -> None:
        for comparison in found:
            print_speed(console, comparison)

    try:
        with progress() as on_event:
            pipeline.bench(
                SPEED,
                model_source(options),
                data_source(options),
                on_comparison=comparisons.append,
                on_event=on_event,
                **picked(options, "methods", "train_rows", "eval_rows", "seeds", "output", "resume"),
            )
    finally:  # what was compared before a failure or Ctrl-C is shown all the same
        if comparisons:
            print_answer(comparisons, as_json, show, lambda found: {"suite": SPEED, "comparisons": found})


@bench_command.command("profile")
@model_options()
@data_options(required=False)
@option("--methods", type=names, default="full,lora,qlora", metavar="A,B", help="Methods to compare.")
@option("--micro-batch-size", type=click.IntRange(1), default=8, help="Rows of the profiled step.")
@option("--dtype", help="Data type of the weights; the checkpoint's by default.")
@json_option
def profile_command(methods: list[str], dtype: str | None, as_json: bool, **options: Any) -> None:
    """Compare where the time of a step goes.

    Runs some steps of every method with its defaults and the same rows, one of them under torch's profiler, and groups
    the time: matrix products, attention, 4-bit and de-quantisation, adapters, elementwise work, copies, the optimizer,
    and what lies between. The trace's prediction stands beside it. Random weights will do (a bare config.json).

    JSON keys: profiles[] (method, micro_batch_size, seq_length, step_s, predicted_s, families[] (family, phase,
    measured_s, predicted_s, calls), unseen_share, load).

    \b
    Example:
      advisor bench profile ./smollm2 --data chats.jsonl --methods lora,qlora --micro-batch-size 4
    """
    from advisor.reporting.profile import print_profiles

    execution = picked(options, "micro_batch_size", "max_seq_length")
    if dtype is not None:
        execution["dtype"] = SHORT_DTYPES[dtype]
    found: list[StepFamilies] = []
    try:
        with progress() as on_event:
            pipeline.profile_methods(
                model_source(options),
                methods,
                data=data_source(options) if options["data"] is not None else None,
                execution={name: value for name, value in execution.items() if value is not None},
                on_profile=found.append,
                on_event=on_event,
            )
    finally:  # what was profiled before a failure or Ctrl-C is shown all the same
        if found:
            print_answer(found, as_json, print_profiles, lambda profiles: {"profiles": profiles})


def keyed(text: str) -> tuple[str, str]:
    """``key=value`` as a pair; without a key the value is for all."""
    key, equals, value = text.partition("=")
    return (key.strip(), value) if equals and "/" not in key else ("", text)


def _scale_option(names: Sequence[str]) -> Callable[[F], F]:
    return option("--scale", type=click.Choice(list(names)), default="small", help="How much of the suite is run.")


_suite_options = stacked(
    option("--seeds", **N, show_default="as the scale says, mostly 3", help="Trainings per cell."),
    option("--output", **DIR, show_default="the user's data directory", help="Folder of the records."),
    switch("resume", True, "Keep what was trained before."),
    option("--num-threads", **N, show_default="torch's choice", help="CPU threads of a training."),
    option("--time-limit", "time_limit_s", **DURATION, help="Start no training that would end after this time: 30min."),
)


def _suite_command(suite: SuiteDefinition) -> click.Command:
    """``advisor bench SUITE`` of one study."""
    what = f"KEY is one of {', '.join(suite.models)}."
    of_data = f"KEY is one of {', '.join(suite.data)}."

    @click.command(suite.name, help=_suite_help(suite))
    @option("--model", "models", type=keyed, multiple=True, metavar="[KEY=]MODEL", help=f"Train this instead. {what}")
    @option("--data", "data_sets", type=keyed, multiple=True, metavar="[KEY=]DATA", help=f"On this instead. {of_data}")
    @option("--text-column", metavar="NAME", help="With --data: column with the text.")
    @option("--text-pair-column", metavar="NAME", help="With --data: column with the second text of a pair.")
    @option("--label-column", metavar="NAME", help="With --data: column with the label.")
    @_scale_option(tuple(suite.scales))
    @_suite_options
    @option("--device", default="a100-sxm4-80gb", metavar="NAME", help="Predict the published backbones for this.")
    @option("--only-predict", is_flag=True, help="Train nothing: predict the published backbones, judge resources.")
    @option("--records", **DIR, help="Run nothing: show the report in this folder again.")
    @option("--markdown", **FILE, help="Also write the page of the report here.")
    @json_option
    @click.pass_context
    def command(context: click.Context, as_json: bool, **options: Any) -> None:
        _run_suite(context, suite, as_json, options)

    return command


def _suite_help(suite: SuiteDefinition) -> str:
    scale = next(reversed(suite.scales))
    return f"""{suite.title}.

    {suite.authors or "A report"}: {counted(len(suite.cells), "cell")}, {counted(len(suite.claims), "claim")}. Every
    cell is trained as `advisor run` trains, its record and predictions are kept, and the same command continues after
    any end. The predicted length is printed first. Models and data of the study are taken at the largest scale where
    they can be had; otherwise demo models and data stand in, and every output says so.

    JSON keys: suite, scale, title, authors, device, published_device, inputs, cells[], verdicts[], notes[], seeds,
    predicted_s, measured_s, remaining, stopped, folder, versions.

    Exit codes: 0; 1 when trainings did not complete; 2 for bad input; 130 for Ctrl-C.

    \b
    Example:
      advisor bench {suite.name} --scale {scale}
    """


def _run_suite(context: click.Context, suite: SuiteDefinition, as_json: bool, options: dict[str, Any]) -> None:
    from advisor.reporting.suites import print_suite, suite_markdown

    if options["records"] is not None:
        report = pipeline.recorded_suite(options["records"])
    else:
        with progress() as on_event:
            report = pipeline.bench_suite(
                suite,
                model=_by_key(options["models"]),
                data=_data_by_key(options),
                on_event=on_event,
                **picked(
                    options,
                    "scale",
                    "seeds",
                    "output",
                    "resume",
                    "num_threads",
                    "time_limit_s",
                    "device",
                    "only_predict",
                ),
            )
    if options["markdown"] is not None:
        write_text_atomically(options["markdown"], suite_markdown(report, suite))
    print_answer(report, as_json, lambda console, found: print_suite(console, found, suite))
    _leave(context, report)


def _leave(context: click.Context, report: SuiteReport) -> None:
    """With the exit code of how the trainings ended."""
    if report.stopped == "interrupted":
        context.exit(EXIT_INTERRUPTED)
    if report.remaining and not report.stopped:
        context.exit(EXIT_FAILED)


def _by_key(pairs: Sequence[tuple[str, str]]) -> dict[str, str] | str | None:
    if not pairs:
        return None
    named = dict(pairs)
    return named[""] if list(named) == [""] else named


def _data_by_key(options: dict[str, Any]) -> Any:
    from advisor.pipeline.inputs import DataSource

    named = _by_key(options["data_sets"])
    columns = picked(options, "text_column", "text_pair_column", "label_column")
    if named is None:
        if any(columns.values()):
            raise InputError("columns belong to --data, but it was not given", fix="add --data FILE")
        return None
    if isinstance(named, str):
        return DataSource(named, **columns)
    return {key: DataSource(source, **columns) for key, source in named.items()}


@bench_command.command("peft-methods")
@click.argument("model")
@data_options(required=True)
@option("--methods", type=names, show_default="none", metavar="A,B", help="Strategies with their defaults.")
@option("--peft-config", "configs", **FILE, multiple=True, help="A configuration of PEFT. May be repeated.")
@option("--knob", "knobs", type=knob, multiple=True, metavar="NAME=VALUE", help="Of every method that has it.")
@option("--epochs", type=float, show_default="each method's own", help="Passes over the rows.")
@option("--batch-size", **N, default=16, help="Rows per optimizer step, the same for all.")
@_suite_options
@json_option
@click.pass_context
def methods_command(context: click.Context, as_json: bool, **options: Any) -> None:
    """Compare methods and PEFT configurations on your own model and data.

    All are trained with several seeds at equal batch, each with its own learning rate. Beside the records, the folder
    `results` gets every training in the JSON of PEFT's method comparison, which its app opens.

    JSON keys: suite, scale, title, authors, device, published_device, inputs, cells[], verdicts[], notes[], seeds,
    predicted_s, measured_s, remaining, stopped, folder, versions.

    Exit codes: 0; 1 when trainings did not complete; 2 for bad input; 130 for Ctrl-C.

    \b
    Example:
      advisor bench peft-methods ./minilm --data reviews.csv --methods lora,ia3 --peft-config dora.json
    """
    from advisor.pipeline.inputs import ModelSource
    from advisor.reporting.suites import print_suite

    configs = {path.stem: read_peft_config(path) or {} for path in options["configs"]}
    limits = ("epochs", "batch_size", "output", "resume", "num_threads", "time_limit_s")
    with progress() as on_event:
        report = pipeline.bench_methods(
            ModelSource(options["model"]),
            data_source(options),
            methods=options["methods"] or (),
            peft_configs=configs,
            knobs=dict(options["knobs"]),
            seeds=options["seeds"] or 3,
            on_event=on_event,
            **picked(options, *limits),
        )
    print_answer(report, as_json, lambda console, found: print_suite(console, found, None))
    _leave(context, report)
