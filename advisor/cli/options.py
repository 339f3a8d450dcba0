"""Options that several commands share, and the parameter types behind them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from advisor.core.errors import InputError
from advisor.core.tasks import task_names, task_traits
from advisor.core.units import parse_duration_s, parse_memory_bytes

if TYPE_CHECKING:
    from advisor.pipeline.inputs import DataSource, ModelSource

F = TypeVar("F", bound=Callable[..., Any])


class MemoryType(click.ParamType):
    """``8GiB`` or ``800MB`` as bytes."""

    name = "memory"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        return value if isinstance(value, int) else parse_memory_bytes(value)


class DurationType(click.ParamType):
    """``2h``, ``90min`` or ``45s`` as seconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        return value if isinstance(value, float) else parse_duration_s(value)


class NamesType(click.ParamType):
    """``a,b,c`` as a tuple of names."""

    name = "names"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        if isinstance(value, tuple):
            return value
        names = tuple(name.strip() for name in value.split(",") if name.strip())
        if not names:
            raise InputError(f"{param.opts[0] if param else 'the option'} must name something, but got {value!r}")
        return names


class KnobType(click.ParamType):
    """``name=value`` as a pair; the value is JSON where it can be read as such, else text."""

    name = "knob"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, Any]:
        if isinstance(value, tuple):
            return value
        name, equals, text = value.partition("=")
        if not (name.strip() and equals):
            raise InputError(f"--knob must be NAME=VALUE, but got {value!r}", fix="for example --knob rank=8")
        try:
            return name.strip(), json.loads(text)
        except json.JSONDecodeError:
            return name.strip(), text


class TaskType(click.ParamType):
    """The name of a registered task, built in or of another package."""

    name = "task"

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:
        return f"[{'|'.join(task_names())}]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        return task_traits(value).name


MEMORY, DURATION, NAMES, KNOB, TASK = MemoryType(), DurationType(), NamesType(), KnobType(), TaskType()


def stacked(*decorators: Callable[[Any], Any]) -> Callable[[F], F]:
    """Several option decorators as one; the help lists them in this order."""

    def decorate(function: F) -> F:
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return decorate


json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document to standard output.")

device_option = click.option(
    "--device",
    default="auto",
    show_default="this machine",
    metavar="NAME",
    help="Device to plan for; `advisor devices` lists them.",
)

memory_option = click.option(
    "--memory", "memory_bytes", type=MEMORY, metavar="SIZE", help="Memory budget: 8GiB, 8GB (= 8e9 bytes), 800MB."
)

time_option = click.option(
    "--time", "time_s", type=DURATION, metavar="DURATION", help="Time budget of the whole run: 2h, 90min, 45s."
)

safety_option = click.option(
    "--safety-level",
    type=click.FloatRange(0.5, 1, max_open=True),
    default=0.95,
    show_default=True,
    help="Probability with which a plan must stay within the memory limit.",
)


task_option = click.option("--task", type=TASK, help="Task to train; by default inferred from the data.")

trust_options = stacked(
    click.option("--trust-remote-code", is_flag=True, help="Allow Python code that comes with the model."),
    click.option("--allow-pickle", is_flag=True, help="Allow pickled weights; loading them can execute code."),
)

SPEED_KNOBS = ("group_by_length", "tf32", "torch_compile", "num_threads")


def speed_options(*, chosen: bool) -> Callable[[F], F]:
    """Execution knobs that change the speed of a step, not what it computes.

    Args:
        chosen: Whether the planner chooses what is not given; otherwise it is off.
    """
    pays = "where it saves padding" if chosen else "off"
    available = "where the device has it" if chosen else "off"
    threads = "the fastest number that `probe` found" if chosen else "torch's choice"
    return stacked(
        click.option(
            "--group-by-length/--no-group-by-length",
            default=None,
            show_default=pays,
            help="Batch rows of similar length.",
        ),
        click.option(
            "--tf32/--no-tf32", default=None, show_default=available, help="Use TensorFloat-32 for float32 products."
        ),
        click.option("--torch-compile/--no-torch-compile", default=None, show_default="off", help="Compile the model."),
        click.option("--num-threads", type=click.IntRange(1), metavar="N", show_default=threads, help="CPU threads."),
    )


def speed_values(options: dict[str, Any]) -> dict[str, Any]:
    """The values of :func:`speed_options` that were given."""
    return {name: options[name] for name in SPEED_KNOBS if options[name] is not None}


def model_options(*, required: bool = True) -> Callable[[F], F]:
    """MODEL, and which risks of loading it the user accepts."""
    return stacked(
        click.argument("model", required=required),
        task_option,
        click.option("--revision", metavar="REV", help="Revision of a hub model."),
        trust_options,
    )


def data_options(*, required: bool) -> Callable[[F], F]:
    """``--data`` and how to read it."""
    what = "CSV, JSONL, Parquet or text file, `datasets` folder, hub id, or demo set."
    return stacked(
        click.option("--data", required=required, metavar="DATA", help=what),
        click.option("--text-column", metavar="NAME", help="Column with the text."),
        click.option("--text-pair-column", metavar="NAME", help="Column with the second text of a pair."),
        click.option("--label-column", metavar="NAME", help="Column with the label."),
        click.option("--split", metavar="NAME", help="Training split of a `datasets` source."),
        click.option("--eval-data", metavar="DATA", help="Held-out file or split; by default 10 % of the rows."),
        click.option("--max-train-rows", type=click.IntRange(1), metavar="N", help="Train on at most N rows."),
        click.option("--max-eval-rows", type=click.IntRange(1), metavar="N", help="Evaluate on at most N rows."),
        click.option(
            "--max-seq-length",
            "--seq-length",
            type=click.IntRange(1),
            metavar="N",
            help="Truncate rows to N tokens; by default chosen from the data.",
        ),
    )


def model_source(options: dict[str, Any]) -> ModelSource:
    """The values of :func:`model_options`."""
    from advisor.pipeline.inputs import ModelSource

    return ModelSource(
        options["model"],
        task=options["task"],
        trust_remote_code=options["trust_remote_code"],
        allow_pickle=options["allow_pickle"],
        revision=options["revision"],
    )


def data_source(options: dict[str, Any]) -> DataSource:
    """The values of :func:`data_options`."""
    from advisor.pipeline.inputs import DataSource

    names = (
        "text_column",
        "text_pair_column",
        "label_column",
        "split",
        "max_train_rows",
        "max_eval_rows",
        "max_seq_length",
    )
    return DataSource(options["data"], eval_source=options["eval_data"], **{name: options[name] for name in names})


def read_peft_config(path: Path | None) -> dict[str, Any] | None:
    """The JSON object of ``--peft-config``.

    Raises:
        InputError: missing, not JSON, or not an object.
    """
    if path is None:
        return None
    from advisor.core.serialization import read_json

    values = read_json(path, what="--peft-config")
    if not isinstance(values, dict):
        raise InputError(f"--peft-config must hold a JSON object, but {path} holds a {type(values).__name__}")
    return values
