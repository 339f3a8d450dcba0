"""Options that several commands share, how their values are parsed, and what jobs make of them."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_args

import click

from advisor.cli.reading import label_map, read_option
from advisor.core.budget import Budget
from advisor.core.data import Packing, ReadOptions
from advisor.core.errors import InputError
from advisor.core.objective import DEFAULT_OBJECTIVE, OBJECTIVES
from advisor.core.strategy import ClassWeights
from advisor.core.tasks import task_names, task_traits
from advisor.core.units import (
    parse_duration_s,
    parse_energy_j,
    parse_latency_s,
    parse_memory_bytes,
    parse_saved_size_bytes,
)

if TYPE_CHECKING:
    from advisor.pipeline.inputs import DataSource, ModelSource

F = TypeVar("F", bound=Callable[..., Any])

option = functools.partial(click.option, show_default=True)
"""``click.option``; the help shows every default."""
PATH = click.Path(path_type=Path)
COUNT = click.IntRange(1)
FILE: dict[str, Any] = {"type": PATH, "metavar": "FILE"}
DIR: dict[str, Any] = {"type": PATH, "metavar": "DIR"}
SIZE: dict[str, Any] = {"type": parse_memory_bytes, "metavar": "SIZE"}
DURATION: dict[str, Any] = {"type": parse_duration_s, "metavar": "DURATION"}
N: dict[str, Any] = {"type": COUNT, "metavar": "N"}
"""What an option takes, and how the help writes it."""


def names(text: str) -> tuple[str, ...]:
    """``a,b,c`` as a tuple of names."""
    found = tuple(name.strip() for name in text.split(",") if name.strip())
    if not found:
        raise InputError(f"a list of names must have at least one, but got {text!r}", fix="write for example a,b")
    return found


def knob(text: str) -> tuple[str, Any]:
    """``name=value`` as a pair; the value is JSON where it can be read as such, else text."""
    name, equals, value = text.partition("=")
    if not (name.strip() and equals):
        raise InputError(f"--knob must be NAME=VALUE, but got {text!r}", fix="for example --knob rank=8")
    try:
        return name.strip(), json.loads(value)
    except json.JSONDecodeError:
        return name.strip(), value


class RegisteredName(click.ParamType):
    """A name in a registry, built in or of another package; the registry is read when the name is needed.

    Args:
        names: All that the help lists.
        checked: The name; raises an ``InputError`` when there is no such entry.
    """

    name = "name"

    def __init__(self, names: Callable[[], Sequence[str]], checked: Callable[[str], str]) -> None:
        self._names, self._checked = names, checked

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:
        return f"[{'|'.join(self._names())}]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        return self._checked(value)


def stacked(*decorators: Callable[[Any], Any]) -> Callable[[F], F]:
    """Several option decorators as one; the help lists them in this order."""

    def decorate(function: F) -> F:
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return decorate


def switch(name: str, default: bool | None, text: str, *names: str, shown: bool | str = True) -> Callable[[F], F]:
    """``--name/--no-name``; ``None`` leaves the choice to the job, and ``shown`` says what it is."""
    return option(f"--{name}/--no-{name}", *names, default=default, show_default=shown, help=text)


json_option = option("--json", "as_json", is_flag=True, help="Print one JSON document to standard output.")
device_option = option(
    "--device",
    default="auto",
    show_default="this machine",
    metavar="NAME",
    help="Device to plan for; `advisor devices` lists them.",
)
memory_option = option("--memory", "memory_bytes", **SIZE, help="Memory budget: 8GiB, 8GB (= 8e9 bytes), 800MB.")
time_option = option("--time", "time_s", **DURATION, help="Time budget of the whole run: 2h, 90min, 45s.")
constraint_options = stacked(
    option(
        "--max-latency",
        "max_latency_s",
        type=parse_latency_s,
        metavar="DURATION",
        help="Longest forward pass of one row: 20ms; of the merged model where the method merges.",
    ),
    option(
        "--max-saved-size",
        "max_saved_size_bytes",
        type=parse_saved_size_bytes,
        metavar="SIZE",
        help="Largest saved adapter or model: 5MB, 90MiB.",
    ),
    option(
        "--max-energy",
        "max_energy_j",
        type=parse_energy_j,
        metavar="ENERGY",
        help="Most energy of the whole run: 40kJ, 20Wh; where the device's power is known.",
    ),
)
objective_option = option(
    "--objective",
    type=click.Choice(list(OBJECTIVES)),
    default=DEFAULT_OBJECTIVE.name,
    help="quality: the best; cheapest (memory x time), fastest: above --min-quality; pareto: what no other beats in"
    " quality, time and memory at once.",
)
min_quality_option = option(
    "--min-quality", type=float, metavar="X", help="Desired minimum of the metric; reported as a probability."
)
safety_option = option(
    "--safety-level",
    type=click.FloatRange(0.5, 1, max_open=True),
    default=0.95,
    help="Probability with which a plan must stay within the memory limit.",
)
task_option = option(
    "--task",
    type=RegisteredName(task_names, lambda name: task_traits(name).name),
    help="Task to train; by default inferred from the data.",
)
trust_options = stacked(
    option("--trust-remote-code", is_flag=True, help="Allow Python code that comes with the model."),
    option("--allow-pickle", is_flag=True, help="Allow pickled weights; loading them can execute code."),
)
padding_option = switch(
    "padding", None, "Whether batches contain padding.", "padded", shown="where rows differ in length"
)


SPEED_KNOBS = ("group_by_length", "tf32", "torch_compile", "keep_features", "expandable_segments", "num_threads")


def speed_options(*, chosen: bool) -> Callable[[F], F]:
    """Execution knobs that change the speed of a step, not what it computes.

    Args:
        chosen: Whether the planner chooses what is not given; otherwise it is off.
    """
    pays = "where it saves padding" if chosen else "off"
    available = "where the device has it" if chosen else "off"
    threads = "the fastest number that `probe` found" if chosen else "torch's choice"
    return stacked(
        switch("group-by-length", None, "Batch rows of similar length.", shown=pays),
        switch("tf32", None, "Use TensorFloat-32 for float32 products.", shown=available),
        switch("torch-compile", None, "Compile the model.", shown="off"),
        switch(
            "keep-features",
            None,
            "For head and partial: compute the frozen first layers once a row, without dropout.",
            shown="where it saves time and the model has no dropout" if chosen else "off",
        ),
        switch(
            "expandable-segments",
            None,
            "On a CUDA device: let torch's allocator grow segments, which leaves less reserved memory over.",
            shown="as PYTORCH_ALLOC_CONF says",
        ),
        option("--num-threads", **N, show_default=threads, help="CPU threads."),
    )


knob_option = option(
    "--knob",
    "other_knobs",
    type=knob,
    multiple=True,
    metavar="NAME=VALUE",
    help="Any other knob of a method; the value as JSON or text. May be repeated.",
)


def knob_values(options: dict[str, Any], *names: str) -> dict[str, Any]:
    """The knobs that were given: by options with these names, by ``--peft-config``, and by ``--knob``."""
    named = picked(options, *names) | {"peft_config": read_peft_config(options.get("peft_config"))}
    return {name: value for name, value in named.items() if value is not None} | dict(options["other_knobs"])


TRAINING_KNOBS = ("class_weights", "evaluations_per_epoch", "load_best_model_at_end", "early_stopping_patience")

training_options = stacked(
    option(
        "--class-weights",
        type=click.Choice(get_args(ClassWeights)),
        show_default="none",
        help="balanced: in the loss, weigh classes by their inverse frequency in the training rows.",
    ),
    option("--evaluations-per-epoch", **N, show_default="1", help="How often held-out rows are evaluated."),
    option(
        "--load-best/--no-load-best",
        "load_best_model_at_end",
        default=None,
        show_default="off",
        help="Keep the checkpoint with the best held-out figure of the ranked metric instead of the last one.",
    ),
    option(
        "--early-stopping-patience",
        **N,
        show_default="off",
        help="With --load-best: stop after N evaluations in a row without a better one.",
    ),
)


def speed_values(options: dict[str, Any]) -> dict[str, Any]:
    """The values of :func:`speed_options` that were given."""
    return {name: options[name] for name in SPEED_KNOBS if options[name] is not None}


def model_options(*, required: bool = True) -> Callable[[F], F]:
    """MODEL, and which risks of loading it the user accepts."""
    return stacked(
        click.argument("model", required=required),
        task_option,
        option("--revision", metavar="REV", help="Revision of a hub model."),
        trust_options,
    )


def _formats() -> tuple[str, ...]:
    from advisor.training.data.formats import FORMATS

    return FORMATS.names()


def _format(name: str) -> str:
    from advisor.training.data.formats import FORMATS

    return FORMATS.get(name).name


def data_options(*, required: bool) -> Callable[[F], F]:
    """``--data`` and how to read it."""
    what = "CSV, JSONL, Parquet, Excel or text file, `datasets` folder, hub id, or demo set."
    cut = "Truncate rows to N tokens; by default chosen from the data."
    rows = (
        "How columns become rows: chat, sharegpt, alpaca, prompt-completion, chosen, text, ...; by default recognised."
    )
    return stacked(
        option("--data", required=required, metavar="DATA", help=what),
        option("--text-column", metavar="NAME", help="Column with the text."),
        option("--text-pair-column", metavar="NAME", help="Column with the second text of a pair."),
        option("--label-column", metavar="NAME", help="Column with the label."),
        option("--format", type=RegisteredName(_formats, _format), metavar="FORMAT", help=rows),
        option(
            "--read-option",
            "read_options",
            type=read_option,
            multiple=True,
            metavar="NAME=VALUE",
            help="How to read the file where the detected way is not meant: encoding=cp1252, delimiter=tab,"
            " quoting=double|backslash|none, header=yes|no, sheet=NAME. May be repeated.",
        ),
        option(
            "--label-map",
            type=label_map,
            multiple=True,
            metavar="A=B|FILE",
            help="Read label A as class B; pairs, or a JSON or two-column file. May be repeated.",
        ),
        option("--drop-labels", type=names, multiple=True, metavar="A,B", help="Leave out the rows of these classes."),
        option("--drop-unlabelled", is_flag=True, help="Leave out the rows without a label."),
        option(
            "--packing",
            type=click.Choice(get_args(Packing)),
            help="Documents that share a block do not see each other (separate), or are one running text (joined); by"
            " default separate, where the model can.",
        ),
        option("--split", metavar="NAME", help="Training split of a `datasets` source."),
        option("--eval-data", metavar="DATA", help="Held-out file or split; by default 10 % of the rows."),
        option("--max-train-rows", **N, help="Train on at most N rows."),
        option("--max-eval-rows", **N, help="Evaluate on at most N rows."),
        option("--max-seq-length", "--seq-length", **N, help=cut),
    )


def picked(options: dict[str, Any], *names: str) -> dict[str, Any]:
    """Some of the options; those that the command does not have are left out."""
    return {name: options[name] for name in names if name in options}


def model_source(options: dict[str, Any]) -> ModelSource:
    """The values of :func:`model_options`."""
    from advisor.pipeline.inputs import ModelSource

    return ModelSource(options["model"], **picked(options, "task", "trust_remote_code", "allow_pickle", "revision"))


def data_source(options: dict[str, Any]) -> DataSource:
    """The values of :func:`data_options`."""
    from advisor.pipeline.inputs import DataSource

    columns = ("text_column", "text_pair_column", "label_column", "split")
    limits = ("max_train_rows", "max_eval_rows", "max_seq_length")
    return DataSource(
        options["data"],
        eval_source=options["eval_data"],
        reading=ReadOptions(**dict(options["read_options"])),
        label_map=tuple(pair for pairs in options["label_map"] for pair in pairs),
        drop_labels=tuple(name for names in options["drop_labels"] for name in names),
        **picked(options, *columns, *limits, "format", "drop_unlabelled", "packing"),
    )


def budget_of(options: dict[str, Any]) -> Budget:
    """The limits that a command has options for; an option is named like its field of ``Budget``."""
    return Budget(**picked(options, *(field.name for field in fields(Budget))))


def read_peft_config(path: Path | None) -> dict[str, Any] | None:
    """The JSON object of ``--peft-config``: a file, or the folder of a saved adapter.

    Raises:
        InputError: missing, not JSON, or not an object.
    """
    if path is None:
        return None
    from advisor.core.serialization import read_json
    from advisor.training.sources import ADAPTER_CONFIG

    file = path / ADAPTER_CONFIG if path.is_dir() else path
    values = read_json(file, what="--peft-config")
    if not isinstance(values, dict):
        raise InputError(f"--peft-config must hold a JSON object, but {file} holds a {type(values).__name__}")
    if path.is_dir():  # PEFT saves every adapter ready for inference
        values.pop("inference_mode", None)
    return values
