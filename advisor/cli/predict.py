"""``advisor predict``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click

from advisor.cli.options import (
    KNOB,
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
from advisor.core.errors import InputError
from advisor.core.plan import SHORT_DTYPES, Loss, Optimizer
from advisor.strategies import DEFAULT_METHOD

if TYPE_CHECKING:
    from advisor.core.cost import CostEstimate
    from advisor.pipeline.events import OnEvent
    from advisor.pipeline.explaining import Explanation
    from advisor.pipeline.predicting import Configuration

_ATTENTION = ("eager", "sdpa", "flash_attention_2")
_OPTIMIZERS = get_args(Optimizer)
_SHARE = click.FloatRange(0, 1, max_open=True)

_KNOBS = (
    "rank",
    "lora_alpha",
    "lora_dropout",
    "target_modules",
    "unfrozen_layers",
    "sparsity",
    "num_train_epochs",
    "max_grad_norm",
)
_EXECUTION = (
    "micro_batch_size",
    "gradient_accumulation_steps",
    "padded",
    "amp",
    "gradient_checkpointing",
    "reentrant_checkpointing",
    "attn_implementation",
    "optim",
    "kbit_upcast",
    "zero_grad_set_to_none",
    "hold_outputs",
    "loss",
)


def _switch(name: str, default: bool, text: str) -> Callable[[Any], Any]:
    return click.option(f"--{name}/--no-{name}", default=default, show_default=True, help=text)


_knob_options = stacked(
    click.option("--method", default=DEFAULT_METHOD, show_default=True, help="Strategy; `advisor methods` lists them."),
    click.option("--rank", type=click.IntRange(1), help="Rank of the adapters."),
    click.option("--lora-alpha", type=click.IntRange(1), help="Scale of the adapters."),
    click.option("--lora-dropout", type=_SHARE, help="Dropout in front of the adapters."),
    click.option("--target-modules", type=NAMES, help="attention, all-linear, or module names: q_proj,v_proj."),
    click.option("--unfrozen-layers", type=click.IntRange(1), help="For partial: how many last layers train."),
    click.option("--sparsity", type=_SHARE, help="For sparse_lora: share of zeroed adapter weights."),
    click.option("--peft-config", type=click.Path(path_type=Path), help="For peft: a PEFT configuration as JSON."),
    click.option(
        "--knob",
        "other_knobs",
        type=KNOB,
        multiple=True,
        metavar="NAME=VALUE",
        help="Any other knob of the method; the value as JSON or text. May be repeated.",
    ),
    click.option("--epochs", "num_train_epochs", type=click.FloatRange(0, min_open=True), help="Passes over the data."),
    click.option("--max-grad-norm", type=click.FloatRange(0), show_default="1.0", help="Gradient clipping; 0: off."),
)

_execution_options = stacked(
    click.option(
        "--micro-batch-size", type=click.IntRange(1), default=8, show_default=True, help="Rows per forward pass."
    ),
    click.option(
        "--eval-batch-size", type=click.IntRange(1), help="Rows per evaluation pass; by default the micro-batch."
    ),
    click.option(
        "--gradient-accumulation-steps",
        type=click.IntRange(1),
        default=1,
        show_default=True,
        help="Forward passes per optimizer step.",
    ),
    click.option(
        "--padding/--no-padding", "padded", default=True, show_default=True, help="Whether batches contain padding."
    ),
    click.option(
        "--dtype",
        type=click.Choice(["auto", *SHORT_DTYPES]),
        default="auto",
        show_default="auto: that of the checkpoint",
        help="Data type of the loaded weights.",
    ),
    click.option(
        "--amp", type=click.Choice(["none", "bf16", "fp16"]), default="none", show_default=True, help="Mixed precision."
    ),
    click.option(
        "--gradient-checkpointing/--no-gradient-checkpointing",
        default=False,
        show_default=True,
        help="Recompute activations instead of keeping them.",
    ),
    _switch("reentrant-checkpointing", False, "Use the reentrant variant of checkpointing."),
    click.option(
        "--attn-implementation",
        type=click.Choice(_ATTENTION),
        show_default="sdpa, eager where the architecture has no sdpa",
    ),
    click.option("--optim", type=click.Choice(_OPTIMIZERS), default="adamw_torch_fused", show_default=True),
    _switch("kbit-upcast", False, "Prepare 4-bit models with PEFT's prepare_model_for_kbit_training."),
    _switch("zero-grad-set-to-none", True, "Set gradients to None between steps instead of zeroing them."),
    _switch("hold-outputs", False, "Keep the model's outputs alive during the backward pass."),
    click.option(
        "--loss",
        type=click.Choice(get_args(Loss)),
        default="standard",
        show_default=True,
        help="fused-linear: output projection and cross-entropy in chunks (causal-lm).",
    ),
    speed_options(chosen=False),
)


@click.command("predict")
@model_options(required=False)
@click.option("--model", "model_option", metavar="MODEL", help="Same as the argument MODEL.")
@_knob_options
@_execution_options
@data_options(required=False)
@click.option(
    "--num-labels", type=click.IntRange(2), default=2, show_default=True, help="Number of classes without --data."
)
@click.option("--plan", "plan_path", type=click.Path(path_type=Path), help="Predict this plan.json instead of MODEL.")
@device_option
@memory_option
@time_option
@safety_option
@click.option("--explain", is_flag=True, help="Show what the peak consists of and which change would lower it.")
@click.option(
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
    """Predict peak memory, time and quality of one exact configuration, without training it.

    A bare config.json is enough: the real training step is traced without weights. Instead of MODEL and options, --plan
    takes a plan.json. JSON: the cost of the configuration; with --explain also explanation (peak, comparison, note).

    \b
    Examples:
      advisor predict ./bert-base/config.json --method qlora --rank 16 --seq-length 256 --device t4
      advisor predict --plan plan.json --device rtx-4060 --json
    """
    from advisor.cli.output import print_json, progress
    from advisor.pipeline import predict_configuration

    options["model"] = _one_model(options.pop("model_option"), options["model"])
    if (plan_path is None) == (options["model"] is None):
        raise InputError(
            "predict needs either MODEL or --plan, but got " + ("neither" if plan_path is None else "both"),
            fix="`advisor predict --help` has examples",
        )
    explanation = None
    with progress() as on_event:
        if plan_path is not None:
            configuration, title = _configure_plan(plan_path, options, on_event), str(plan_path)
        else:
            configuration = _configure_model(options, on_event)
            title = f"{options['method']} on {options['model']}"
        estimate = predict_configuration(configuration, on_event)
        if explain or html_path is not None:
            from advisor.pipeline import explain as explain_configuration

            explanation = explain_configuration(configuration, estimate, on_event)
    if as_json:
        print_json(_json_answer(estimate, explanation))
    else:
        _print_answer(estimate, explanation, title)
    if explanation is not None and html_path is not None:
        from advisor.reporting.timeline import write_timeline

        write_timeline(html_path, title, explanation.peak, explanation.comparison)
        if not as_json:
            click.echo(f"\ntimeline written to {html_path}")


def _print_answer(estimate: CostEstimate, explanation: Explanation | None, title: str) -> None:
    from advisor.cli.output import answer_console
    from advisor.reporting.cost import print_cost

    console = answer_console()
    print_cost(console, estimate, title=title)
    if explanation is not None:
        from advisor.reporting.explain import print_explanation

        print_explanation(console, explanation.peak, explanation.comparison, note=explanation.note)


def _json_answer(estimate: CostEstimate, explanation: Explanation | None) -> dict[str, Any]:
    from advisor.core.serialization import to_dict

    answer: dict[str, Any] = to_dict(estimate)
    if explanation is not None:
        answer["explanation"] = to_dict(explanation)
    return answer


def _one_model(named: str | None, argument: str | None) -> str | None:
    """MODEL as an argument or as --model, but not both."""
    if named is not None and argument is not None:
        raise InputError(
            f"one model must be named, but got the argument {argument} and --model {named}", fix="leave one of them out"
        )
    return named or argument


def _configure_plan(plan_path: Path, options: dict[str, Any], on_event: OnEvent) -> Configuration:
    from advisor.pipeline import configure_plan

    device = None if options["device"] == "auto" else options["device"]
    return configure_plan(plan_path, device=device, on_event=on_event)


def _configure_model(options: dict[str, Any], on_event: OnEvent) -> Configuration:
    from advisor.core.budget import Budget
    from advisor.pipeline import configure

    return configure(
        model_source(options),
        method=options["method"],
        knobs=_knobs(options),
        execution=_execution(options),
        data=data_source(options) if options["data"] is not None else None,
        num_labels=options["num_labels"],
        device=options["device"],
        budget=Budget(
            memory_bytes=options["memory_bytes"], time_s=options["time_s"], safety_level=options["safety_level"]
        ),
        on_event=on_event,
    )


def _knobs(options: dict[str, Any]) -> dict[str, Any]:
    """The strategy's fields that were named; everything else keeps the method's own default."""
    knobs = {name: options[name] for name in _KNOBS if options[name] is not None}
    targets = knobs.get("target_modules")
    if targets in (("attention",), ("all-linear",)):
        knobs["target_modules"] = targets[0]
    peft_config = read_peft_config(options["peft_config"])
    if peft_config is not None:
        knobs["peft_config"] = peft_config
    return knobs | dict(options["other_knobs"])


def _execution(options: dict[str, Any]) -> dict[str, Any]:
    values = {name: options[name] for name in _EXECUTION if options[name] is not None} | speed_values(options)
    if options["dtype"] != "auto":
        values["dtype"] = SHORT_DTYPES[options["dtype"]]
    values["eval_batch_size"] = options["eval_batch_size"] or options["micro_batch_size"]
    if options["max_seq_length"] is not None:
        values["max_seq_length"] = options["max_seq_length"]
    return values
