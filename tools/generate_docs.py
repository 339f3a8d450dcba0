"""Writes the reference sections of the documentation from the code, and checks that they are up to date.

::

    python tools/generate_docs.py            # write them
    python tools/generate_docs.py --check    # exit code 1 when a page differs from what would be written

A page under ``docs/`` is written by hand, except between two markers::

    <!-- generated: NAME -->
    <!-- end of NAME -->

``SECTIONS`` maps every name to the function that returns its Markdown. What they return depends on the code and on
files of this repository, never on the machine: installed plug-ins, stored profiles and calibrations are left out.
"""

from __future__ import annotations

import argparse
import builtins
import collections
import dataclasses
import functools
import inspect
import json
import os
import re
import subprocess
import sys
import tempfile
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

ROOT = Path(__file__).resolve().parents[1]
_MARKED = re.compile(r"(<!-- generated: ([a-z -]+) -->\n).*?(<!-- end of \2 -->)", re.DOTALL)


# --- Markdown ---------------------------------------------------------------------------------------------------------


def table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; bars inside cells are escaped."""
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)


def prose(text: str) -> str:
    """A docstring's text as Markdown on one line: reStructuredText literals and roles become code."""
    text = re.sub(r":[a-z]+:`~?([^`]+)`", r"`\1`", " ".join(text.split()))
    return text.replace("``", "`")


# --- Command line -----------------------------------------------------------------------------------------------------


def command_reference() -> str:
    """Every command: usage, description, arguments and options."""
    from advisor.cli.app import app

    context = click.Context(app, info_name="advisor")
    return "\n\n".join(_commands(app, context))


def _commands(group: click.Group, context: click.Context) -> Iterator[str]:
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if command is None or command.hidden:
            continue
        inner = click.Context(command, info_name=name, parent=context)
        yield _command(command, inner)
        if isinstance(command, click.Group):
            yield from _commands(command, inner)


def _command(command: click.Command, context: click.Context) -> str:
    usage = " ".join([context.command_path, *command.collect_usage_pieces(context)])
    parts = [f"## {context.command_path}", f"```text\n{usage}\n```", help_text(command.help or "")]
    options = [option for option in command.params if isinstance(option, click.Option) and not option.hidden]
    if options:
        parts.append(table(("option", "meaning"), (_option(option, context) for option in options)))
    return "\n\n".join(parts)


def help_text(text: str) -> str:
    """A command's docstring as Markdown: paragraphs that click must not re-wrap are code, their heading is prose."""
    parts = []
    for paragraph in re.split(r"\n\s*\n", inspect.cleandoc(text.replace("\f", ""))):
        if not paragraph.startswith("\b"):
            parts.append(re.sub(r"(--[a-z][a-z-]+)", r"`\1`", " ".join(paragraph.split())))
            continue
        heading, *lines = paragraph.removeprefix("\b").strip("\n").split("\n")
        if not lines:
            parts.append(heading)
            continue
        language = "bash" if any(line.strip().startswith("advisor ") for line in lines) else "text"
        parts.append(f"{heading}\n\n```{language}\n{inspect.cleandoc(chr(10).join(lines))}\n```")
    return "\n\n".join(parts)


def _option(option: click.Option, context: click.Context) -> tuple[str, str]:
    names = ", ".join(option.opts) + (f" / {', '.join(option.secondary_opts)}" if option.secondary_opts else "")
    takes = "" if option.is_flag or option.count else f" {option.make_metavar(context)}"
    remarks = []
    if option.required:
        remarks.append("required")
    if default := _default(option):
        remarks.append(f"default: {default}")
    text = re.sub(r"(--[a-z][a-z-]+)", r"`\1`", option.help or "")
    return f"`{names}{takes}`", f"{text} ({'; '.join(remarks)})".strip() if remarks else text


def _default(option: click.Option) -> str:
    if isinstance(option.show_default, str):
        return option.show_default
    if option.secondary_opts:
        return f"`{(option.opts if option.default else option.secondary_opts)[0]}`"
    return f"`{option.default}`" if isinstance(option.default, str | int | float) and not option.is_flag else ""


# --- Records ----------------------------------------------------------------------------------------------------------


def record_classes() -> dict[str, list[type]]:
    """The documented records, by section of the page on JSON."""
    from advisor.calibration import datasheet, report
    from advisor.core import benchmark, budget, comparison, cost, data, device, model, plan, run, strategy
    from advisor.experiments import operator_families
    from advisor.experiments.speed import compare
    from advisor.experiments.suites import results, verdicts
    from advisor.hardware.backends import contact
    from advisor.pipeline import doctoring, validating
    from advisor.search.study import TuneResult

    return {
        "json tune": [TuneResult],
        "json calibrate": [report.CalibrationReport, report.ImportReport, datasheet.DatasheetReport],
        "json validate": [validating.Validation],
        "json evaluate": [benchmark.ModelEvaluation],
        "json compare": [
            comparison.RunComparison,
            comparison.ComparedRun,
            comparison.RunPair,
            comparison.ErrorGroup,
            comparison.ErrorWord,
            comparison.HardItem,
            comparison.SeedGroup,
            comparison.SeedDifference,
        ],
        "json doctor": [doctoring.Diagnosis, contact.Check],
        "json bench": [
            compare.SpeedComparison,
            results.SuiteReport,
            results.CellResults,
            results.SeedSpread,
            verdicts.Verdict,
        ],
        "json cost": [
            cost.CostEstimate,
            cost.MemoryEstimate,
            cost.MemoryBreakdown,
            cost.TimeEstimate,
            cost.InferenceEstimate,
            cost.QualityEstimate,
            cost.Interval,
        ],
        "json plan": [
            plan.Plan,
            model.ModelSpec,
            data.DataSpec,
            data.ReadOptions,
            data.DataProfile,
            strategy.StrategyConfig,
            plan.ExecutionPlan,
            budget.Budget,
        ],
        "json record": [
            run.RunRecord,
            run.Measurement,
            run.Verification,
            benchmark.Benchmark,
            benchmark.QualityReport,
            benchmark.MeasuredFigure,
            benchmark.ClassFigures,
            benchmark.ReliabilityBin,
            operator_families.StepFamilies,
            operator_families.FamilySeconds,
        ],
        "json device": [device.DeviceProfile, device.Rate],
    }


def records(section: str) -> str:
    """The records of one section."""
    return "\n\n".join(record_reference(record) for record in record_classes()[section])


def record_reference(record: type) -> str:
    """Heading, summary, and one row per field: name, type in JSON, meaning."""
    documented = attribute_texts(record)
    hints = _field_types(record)
    rows = [
        (f"`{field.name}`", json_type(hints[field.name]), documented.get(field.name, ""))
        if not field.metadata.get("beside")
        else (f"({field.name})", "each a key of its own", documented.get(field.name, ""))
        for field in dataclasses.fields(record)
        if not field.metadata.get("beside")  # its own fields stand here instead
    ]
    summary = prose(inspect.cleandoc(record.__doc__ or "").split("\n\n")[0])
    return f"### {record.__name__}\n\n{summary}\n\n{table(('key', 'type', 'meaning'), rows)}"


def _field_types(record: type) -> dict[str, Any]:
    """Types by field; names that a module imports for type checkers only are objects."""
    known = vars(sys.modules[record.__module__])
    names = collections.defaultdict(lambda: object, vars(builtins) | known)
    return {field.name: eval(str(field.type), {}, names) for field in dataclasses.fields(record)}


def attribute_texts(record: type) -> dict[str, str]:
    """The ``Attributes`` section of a class's docstring, by field; a line may describe several fields."""
    _, _, section = inspect.cleandoc(record.__doc__ or "").partition("Attributes:\n")
    section = re.split(r"\n\n(?=\S)", section)[0]
    found: dict[str, str] = {}
    for entry in re.split(r"\n(?=    \w)", f"\n{section}"):
        names, separator, text = entry.strip().partition(":")
        if separator:
            found |= {name.strip(): prose(text) for name in names.split(",")}
    return found


_SCALARS = {
    object: "object",
    int: "integer",
    float: "number",
    str: "string",
    bool: "boolean",
    Path: "string",
    Any: "any",
}


def json_type(hint: Any) -> str:
    """How a value of an annotated type appears in JSON; documented records are links."""
    from advisor.core.registry import SavedByName

    if isinstance(hint, type) and issubclass(hint, SavedByName):
        return "string"
    if hint in _SCALARS:
        return _SCALARS[hint]
    if hint is type(None):
        return "null"
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        return " or ".join(f'`"{value}"`' if isinstance(value, str) else f"`{value}`" for value in arguments)
    if origin in (types.UnionType, typing.Union):
        return " or ".join(json_type(argument) for argument in arguments)
    if origin is tuple:
        inner = arguments[:1] if arguments[-1] is Ellipsis else arguments
        return f"array of {' and '.join(dict.fromkeys(json_type(argument) for argument in inner))}"
    if origin in (list, frozenset, set) or (origin is not None and issubclass(origin, Sequence)):
        return f"array of {json_type(arguments[0])}"
    if origin is not None and issubclass(origin, Mapping):
        return f"object of {json_type(arguments[1])}"
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        name = hint.__name__
        known = {record.__name__ for group in record_classes().values() for record in group}
        return f"[{name}](#{name.lower()})" if name in known else "object"
    return "string"


def event_table() -> str:
    """Every kind of event that a job reports: keys, those that may be absent in brackets, and meaning."""
    from advisor.core.events import Event

    rows = []
    for event in typing.get_args(Event):
        hints = typing.get_type_hints(event, include_extras=True)
        (kind,) = typing.get_args(hints.pop("kind"))
        optional = {key for key, hint in hints.items() if typing.get_origin(hint) is typing.NotRequired}
        keys = [f"(`{key}`)" if key in optional else f"`{key}`" for key in hints]
        rows.append((f"`{kind}`", ", ".join(keys), prose(event.__doc__ or "")))
    return table(("kind", "keys", "meaning"), rows)


# --- Registries -------------------------------------------------------------------------------------------------------


def built_in_strategies() -> list[Any]:
    """The strategies of this package."""
    from advisor.strategies import get_strategy, strategy_names

    found = [get_strategy(name) for name in strategy_names()]
    return [strategy for strategy in found if type(strategy).__module__.startswith("advisor.")]


def strategy_table() -> str:
    """Every built-in strategy: what trains, its knobs with their defaults, and where these come from."""
    rows = []
    for strategy in built_in_strategies():
        configs = [strategy.default_config(_example_model(size)) for size in _SIZES]
        rates = dict.fromkeys(f"{config.learning_rate:.0e}".replace("e-0", "e-") for config in configs)
        knobs = [f"`{name}={_in_words(value)}`" for name, value in _own_knobs(configs[1]) if value not in (None, {})]
        summary = prose(inspect.cleandoc(type(strategy).__doc__ or "").split("\n\n")[0])
        cells = (f"`{strategy.name}`", summary, ", ".join(knobs) or "–", " / ".join(rates), strategy.defaults_source)
        rows.append(cells)
    return table(("method", "what trains", "own knobs", "learning rate", "source of the defaults"), rows)


def knob_table() -> str:
    """Every knob that only some strategies have."""
    methods: dict[str, list[str]] = {}
    texts: dict[str, str] = {}
    for strategy in built_in_strategies():
        config = strategy.default_config(_example_model(_SIZES[1]))
        for name, _ in _own_knobs(config):
            methods.setdefault(name, []).append(f"`{strategy.name}`")
        for record in type(config.knobs).__mro__:
            texts = attribute_texts(record) | texts
    rows = [(f"`{name}`", texts.get(name, ""), ", ".join(found)) for name, found in methods.items()]
    return table(("knob", "meaning", "strategies"), rows)


_SIZES = (20_000_000, 110_000_000, 7_000_000_000)


def _example_model(total_parameters: int) -> Any:
    """A model of BERT-base's shape with so many parameters: defaults depend on the size alone."""
    from advisor.core.model import ModelSpec

    return ModelSpec(
        source="example",
        kind="config",
        task="sequence-classification",
        config={"model_type": "bert"},
        model_type="bert",
        total_parameters=total_parameters,
        hidden_size=768,
        num_hidden_layers=12,
        vocab_size=30522,
        max_positions=512,
    )


def _own_knobs(config: Any) -> list[tuple[str, Any]]:
    return [(field.name, getattr(config.knobs, field.name)) for field in dataclasses.fields(config.knobs)]


def _in_words(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def task_table() -> str:
    """Every built-in task."""
    from advisor.core.tasks import TASKS
    from advisor.training.data.formats import FORMATS
    from advisor.training.tasks import get_task

    rows = []
    for task in (get_task(name) for name in TASKS.names() if not TASKS.code_version(name)):
        traits = task.traits
        formats = (f for f in FORMATS.all() if f.kind in task.row_kinds and not f.refused)
        data = ", ".join(f"`{f.name}`" for f in formats if not FORMATS.code_version(f.name))
        others = ", ".join(f"`{metric.name}`" for metric in task.metrics if metric is not traits.metric)
        rows.append(
            (
                f"`{traits.name}`", traits.title,
                f"not trained: {traits.predicted_only}" if traits.predicted_only else data,
                f"`{traits.auto_class}`", traits.loss, f"`{traits.metric.name}`", others,
            )
        )  # fmt: skip
    return table(("task", "what", "data", "head", "loss", "ranked on", "further metrics"), rows)


def format_table() -> str:
    """Every built-in row format."""
    from advisor.training.data.formats import FORMATS

    formats = [FORMATS.get(name) for name in FORMATS.names() if not FORMATS.code_version(name)]
    rows = [(f"`{f.name}`", f.title, f.recognised, f.trained) for f in formats]
    return table(("`--format`", "what", "recognised by", "trained"), rows)


def metric_table() -> str:
    """Every built-in metric."""
    from advisor.core.metrics import METRICS

    metrics = [METRICS.get(name) for name in METRICS.names() if not METRICS.code_version(name)]
    rows = [
        (f"`{m.name}`", m.title, "higher" if m.higher_is_better else "lower", f"{m.low:g} to {m.high:g}",
         f"`{m.function}`" if m.function else "from the held-out loss")
        for m in metrics
    ]  # fmt: skip
    return table(("metric", "title", "better", "range", "computed"), rows)


def data_set_table() -> str:
    """Every data set that has a name."""
    from advisor.training.data.asset_catalog import ASSETS

    data_sets = [asset for asset in ASSETS.values() if asset.kind == "data"]
    return table(
        ("name", "content", "licence"), ((f"`{a.name}`", a.description, a.artifact.licence) for a in data_sets)
    )


def device_table() -> str:
    """Every device profile of the repository."""
    from advisor.core.device import DeviceProfile
    from advisor.core.serialization import from_dict
    from advisor.core.units import format_bytes

    rows = []
    for path in sorted((ROOT / "profiles").glob("*.json")):
        profile = from_dict(DeviceProfile, json.loads(path.read_text(encoding="utf-8")), what=path.name)
        rates = [rate.value for dtype, rate in profile.flops_per_s.items() if dtype in profile.dtypes]
        memory = profile.bytes_per_s.get("memory")
        cells = [f"`{profile.id}`", profile.name, format_bytes(profile.memory_bytes), ", ".join(profile.dtypes)]
        cells.append(_three_digits(max(rates) / 1e12) if rates else "–")
        cells.append(_three_digits(memory.value / 1e9) if memory is not None else "–")
        rows.append((*cells, profile.basis))
    return table(("device", "name", "memory", "training dtypes", "TFLOP/s", "GB/s", "source"), rows)


def architecture_table() -> str:
    """What became of the architectures that were tried, as ``tests/tracing/test_registered_architectures.py`` tries
    them.
    """
    lines = (ROOT / "docs" / "architectures.jsonl").read_text(encoding="utf-8").splitlines()
    found = [json.loads(line) for line in lines]
    outcomes: dict[str, dict[str, str]] = {}
    for row in found:
        why = f": {row['reason']}" if row["reason"] else ""
        outcomes.setdefault(row["model_type"], {})[row["task"]] = row["outcome"] + why
    tasks = sorted({row["task"] for row in found})
    rows = [(f"`{name}`", *(of.get(task, "–") for task in tasks)) for name, of in sorted(outcomes.items())]
    return table(("model type", *tasks), rows)


def _three_digits(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


# --- Recorded validation ----------------------------------------------------------------------------------------------


def recorded(what: str, records: str) -> Callable[[], str]:
    """What ``advisor validate WHAT --records RECORDS`` prints, as a block of text."""

    def section() -> str:
        with tempfile.TemporaryDirectory() as home:
            command = [sys.executable, "-m", "advisor", "validate", what, "--records", str(ROOT / records)]
            environment = os.environ | {"ADVISOR_HOME": home, "COLUMNS": "140", "NO_COLOR": "1"}
            answer = subprocess.run(command, capture_output=True, text=True, check=True, env=environment, cwd=ROOT)
        lines = [line.rstrip() for line in answer.stdout.splitlines()]
        command_line = f"advisor validate {what} --records {records}"
        return "\n".join(["```console", f"$ {command_line}", *lines, "```"])

    return section


def phantom_table(name: str) -> Callable[[], str]:
    """A table of ``tools/phantom_gpu/tables.py``."""

    def section() -> str:
        sys.path.insert(0, str(ROOT))
        from tools.phantom_gpu import tables

        made: str = getattr(tables, name)()
        return made

    return section


_MEMORY_RECORDS = "calibration/validation/memory-cpu-cpu-intel-xeon-2c-541637fc.jsonl"
_TIME_RECORDS = "calibration/validation/time-cpu-wide-cpu-intel-xeon-2c-541637fc.jsonl"


# --- Pages ------------------------------------------------------------------------------------------------------------

SECTIONS: dict[str, Callable[[], str]] = {
    "commands": command_reference,
    **{
        name: functools.partial(records, name)
        for name in (
            "json cost",
            "json plan",
            "json record",
            "json device",
            "json tune",
            "json calibrate",
            "json validate",
            "json evaluate",
            "json compare",
            "json bench",
            "json doctor",
        )
    },
    "events": event_table,
    "strategies": strategy_table,
    "knobs": knob_table,
    "tasks": task_table,
    "formats": format_table,
    "metrics": metric_table,
    "data sets": data_set_table,
    "devices": device_table,
    "architectures": architecture_table,
    "memory records": recorded("memory", _MEMORY_RECORDS),
    "time records": recorded("time", _TIME_RECORDS),
    "phantom memory": phantom_table("accuracy_table"),
    "phantom edges": phantom_table("edge_table"),
}


def generated(page: str) -> str:
    """The page with every section written anew.

    Raises:
        KeyError: a marker names no section.
    """
    return _MARKED.sub(lambda found: f"{found[1]}\n{SECTIONS[found[2]]()}\n\n{found[3]}", page)


def pages(folder: Path) -> list[Path]:
    """The pages of a folder that have generated sections."""
    return [path for path in sorted(folder.rglob("*.md")) if _MARKED.search(path.read_text(encoding="utf-8"))]


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the pages, or check them.

    Returns:
        Exit code: 1 when ``--check`` finds a page that is out of date.
    """
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--check", action="store_true", help="change nothing; fail when a page is out of date")
    parser.add_argument("--folder", type=Path, default=ROOT / "docs", help="folder of the pages")
    options = parser.parse_args(arguments)
    check: bool = options.check
    stale = []
    for path in pages(options.folder):
        before = path.read_text(encoding="utf-8")
        after = generated(before)
        if after == before:
            continue
        stale.append(path)
        if not check:
            path.write_text(after, encoding="utf-8")
    for path in stale:
        print(f"{'out of date' if check else 'written'}: {path}")
    if check and stale:
        print("run python tools/generate_docs.py", file=sys.stderr)
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
