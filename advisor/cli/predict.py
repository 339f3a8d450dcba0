"""``advisor predict`` and ``advisor fit``: what one configuration costs, and what is the largest that fits."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click

from advisor import pipeline
from advisor.cli.options import (
    COUNT,
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
    model_options,
    model_source,
    names,
    option,
    padding_option,
    picked,
    safety_option,
    speed_options,
    stacked,
    switch,
    time_option,
    training_options,
)
from advisor.cli.output import print_answer, progress
from advisor.core.errors import EXIT_NOTHING_FITS, InputError
from advisor.core.plan import SHORT_DTYPES, ExecutionPlan, Loss, Optimizer
from advisor.strategies import DEFAULT_METHOD

if TYPE_CHECKING:
    from rich.console import Console

    from advisor.core.cost import CostEstimate
    from advisor.core.events import OnEvent
    from advisor.pipeline.predicting import Configuration

_ATTENTION = ("eager", "sdpa", "flash_attention_2")
_SHARE = click.FloatRange(0, 1, max_open=True)
_ADAPTER_KNOBS = ("rank", "lora_alpha", "lora_dropout", "target_modules")
_OWN_KNOBS = (*_ADAPTER_KNOBS, "unfrozen_layers", "sparsity", "double_quant")
_KNOBS = (*_OWN_KNOBS, "num_train_epochs", "max_grad_norm", *TRAINING_KNOBS)

_knob_options = stacked(
    option("--method", default=DEFAULT_METHOD, help="Strategy; `advisor methods` lists them."),
    option("--rank", type=COUNT, help="Rank of the adapters."),
    option("--lora-alpha", type=COUNT, help="Scale of the adapters."),
    option("--lora-dropout", type=_SHARE, help="Dropout in front of the adapters."),
    option(
        "--target-modules", type=names, metavar="NAMES", help="attention, all-linear, or module names: q_proj,v_proj."
    ),
    option("--unfrozen-layers", type=COUNT, help="For partial: how many last layers train."),
    option("--sparsity", type=_SHARE, help="For sparse_lora and sparse_qlora: share of zeroed adapter weights."),
    option(
        "--double-quant/--no-double-quant",
        default=None,
        show_default="on",
        help="For qlora: quantise the scales of the 4-bit blocks too.",
    ),
    option("--peft-config", type=PATH, help="For peft: a PEFT configuration as JSON."),
    knob_option,
    option("--epochs", "num_train_epochs", type=click.FloatRange(0, min_open=True), help="Passes over the data."),
    option("--max-grad-norm", type=click.FloatRange(0), show_default="1.0", help="Gradient clipping; 0: off."),
    training_options,
)

_execution_options = stacked(
    option("--micro-batch-size", type=COUNT, default=8, help="Rows per forward pass."),
    option("--eval-batch-size", type=COUNT, help="Rows per evaluation pass; by default the micro-batch."),
    option("--gradient-accumulation-steps", type=COUNT, default=1, help="Forward passes per optimizer step."),
    padding_option,
    option(
        "--dtype",
        type=click.Choice(["auto", *SHORT_DTYPES]),
        default="auto",
        show_default="auto: that of the checkpoint",
        help="Data type of the loaded weights.",
    ),
    option("--amp", type=click.Choice(["none", "bf16", "fp16"]), default="none", help="Mixed precision."),
    switch("gradient-checkpointing", False, "Recompute activations instead of keeping them."),
    switch("reentrant-checkpointing", False, "Use the reentrant variant of checkpointing."),
    option(
        "--attn-implementation",
        type=click.Choice(_ATTENTION),
        show_default="sdpa, eager where the architecture has no sdpa",
        help="Attention kernel.",
    ),
    option(
        "--optim",
        type=click.Choice(get_args(Optimizer)),
        default="adamw_torch_fused",
        help="Optimizer, as transformers names it.",
    ),
    switch("kbit-upcast", False, "Prepare 4-bit models with PEFT's prepare_model_for_kbit_training."),
    switch("zero-grad-set-to-none", True, "Set gradients to None between steps instead of zeroing them."),
    switch("hold-outputs", False, "Keep the model's outputs alive during the backward pass."),
    option(
        "--loss",
        type=click.Choice(get_args(Loss)),
        default="standard",
        help="fused-linear: output projection and cross-entropy in chunks (causal-lm).",
    ),
    speed_options(chosen=False),
)


@click.command("predict")
@model_options(required=False)
@option("--model", "model_option", metavar="MODEL", help="Same as the argument MODEL.")
@_knob_options
@_execution_options
@data_options(required=False)
@option("--num-labels", type=click.IntRange(2), default=2, help="Number of classes without --data.")
@option("--plan", "plan_path", type=PATH, help="Predict this plan.json instead of MODEL.")
@switch("evaluation", True, "Count evaluation on the held-out rows, as `advisor run` does it; other loops may not.")
@device_option
@memory_option
@time_option
@constraint_options
@safety_option
@option("--explain", is_flag=True, help="Show what the peak consists of and which change would lower it.")
@option(
    "--html",
    "html_path",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Write a timeline of the step's memory as one HTML file; implies --explain.",
)
@json_option
def predict_command(
    as_json: bool, plan_path: Path | None, explain: bool, html_path: Path | None, **options: Any
) -> None:
    """Predict memory, time and quality of a configuration.

    Nothing is trained. A bare config.json is enough: the real training step is traced without weights. Instead of MODEL
    and options, --plan takes a plan.json. JSON: the cost of the configuration; with --explain also explanation (peak,
    comparison, note).

    \b
    Examples:
      advisor predict ./bert-base/config.json --method qlora --rank 16 --seq-length 256 --device t4
      advisor predict --plan plan.json --device rtx-4060 --json
    """
    from advisor.core.serialization import to_dict
    from advisor.reporting.cost import print_cost

    title, explanation = str(plan_path), None
    with progress() as on_event:
        configuration = _configuration(plan_path, options, on_event)
        if plan_path is None:
            title = f"{options['method']} on {options['model']}"
        estimate = pipeline.predict_configuration(configuration, on_event)
        if explain or html_path is not None:
            explanation = pipeline.explain(configuration, estimate, on_event)

    def show(console: Console, answer: CostEstimate) -> None:
        print_cost(console, answer, title=title, budget=configuration.budget)
        if explanation is not None:
            from advisor.reporting.explain import print_explanation

            print_explanation(console, explanation.peak, explanation.comparison, note=explanation.note)

    def document(answer: CostEstimate) -> dict[str, Any]:
        return to_dict(answer) | ({} if explanation is None else {"explanation": to_dict(explanation)})

    print_answer(estimate, as_json, show, document)
    if explanation is not None and html_path is not None:
        from advisor.reporting.timeline import write_timeline

        write_timeline(html_path, title, explanation.peak, explanation.comparison)
        if not as_json:
            click.echo(f"\ntimeline written to {html_path}")


def _configuration(plan_path: Path | None, options: dict[str, Any], on_event: OnEvent) -> Configuration:
    """What was asked about: a plan, or a model with options."""
    named, argument = options.pop("model_option"), options["model"]
    if named is not None and argument is not None:
        raise InputError(
            f"one model must be named, but got the argument {argument} and --model {named}", fix="leave one of them out"
        )
    options["model"] = model = named or argument
    if (plan_path is None) == (model is None):
        raise InputError(
            "predict needs either MODEL or --plan, but got " + ("neither" if plan_path is None else "both"),
            fix="`advisor predict --help` has examples",
        )
    if plan_path is not None:
        device = None if options["device"] == "auto" else options["device"]
        return pipeline.configure_plan(plan_path, device=device, evaluation=options["evaluation"], on_event=on_event)
    return pipeline.configure(
        model_source(options),
        knobs=_knobs(options),
        execution=_execution(options),
        data=data_source(options) if options["data"] is not None else None,
        budget=budget_of(options),
        on_event=on_event,
        **picked(options, "method", "num_labels", "device", "evaluation"),
    )


def _knobs(options: dict[str, Any]) -> dict[str, Any]:
    """The strategy's fields that were named; everything else keeps the method's own default."""
    knobs = knob_values(options, *_KNOBS)
    if (targets := knobs.get("target_modules")) in (("attention",), ("all-linear",)):
        knobs["target_modules"] = targets[0]
    return knobs


def _execution(options: dict[str, Any]) -> dict[str, Any]:
    """The execution knobs that have a value; the data type of the checkpoint is no value."""
    found = {name: value for field in fields(ExecutionPlan) if (value := options.get(name := field.name)) is not None}
    dtype = found.pop("dtype")
    if dtype in SHORT_DTYPES:
        found["dtype"] = SHORT_DTYPES[dtype]
    return found


@click.command("fit")
@model_options()
@memory_option
@constraint_options
@device_option
@option("--method", "methods", multiple=True, metavar="NAME", help="Consider only this method; repeatable.")
@option("--peft-config", **FILE, help="Also consider method peft with this JSON configuration.")
@option(
    "--seq-length",
    "--max-seq-length",
    "seq_length",
    **N,
    show_default="128",
    help="Tokens per row while searching for the largest batch and rank.",
)
@option(
    "--micro-batch-size",
    type=COUNT,
    default=1,
    help="Rows per forward pass while searching for the largest length and rank.",
)
@option("--rank", type=COUNT, help="Adapter rank instead of each method's default.")
@knob_option
@padding_option
@option("--num-labels", type=click.IntRange(2), default=2, help="Number of classes.")
@safety_option
@option("--all-setups", is_flag=True, help="Also show smaller data types and optimizers when one fits.")
@switch("cards", True, "Find the smallest GPU for each set-up.")
@json_option
@click.pass_context
def fit_command(context: click.Context, as_json: bool, **options: Any) -> None:
    """Find the largest batch, length and rank that fit.

    Answers for every method and a memory size, and names the smallest GPU. Nothing is downloaded or trained; a bare
    config.json is enough. Each value is maximised while the others stay at --micro-batch-size, --seq-length and --rank;
    lengths are multiples of 8, to which batches are padded. Exit code 3 when nothing fits at all.

    JSON keys: device_id, question, fits, methods[] (method, strategy, setups[] with switches, memory_bytes, fits,
    micro_batch, seq_length, rank, card; problems[], reason), smallest, considered.

    \b
    Examples:
      advisor fit ./mistral-7b/config.json --memory 24GB --device rtx-4090 --seq-length 1024
      advisor fit ./bert-base --memory 8GiB --device rtx-4060 --method lora --method full
    """
    from advisor.reporting.fit import fit_answer, print_fit

    with progress() as on_event:
        answer = pipeline.fit(
            model_source(options),
            budget=budget_of(options),
            methods=options["methods"] or None,
            knobs=knob_values(options, "rank"),
            on_event=on_event,
            padded=options["padded"] is not False,
            **picked(options, "device", "micro_batch_size", "seq_length", "num_labels"),
            **picked(options, "cards", "all_setups"),
        )
    print_answer(answer, as_json, print_fit, fit_answer)
    if not answer.fits:
        context.exit(EXIT_NOTHING_FITS)
