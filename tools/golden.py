"""The golden guard: every figure that the advisor answers, before and after a change of its code.

::

    python tools/golden.py write before.jsonl          # with the code as it was
    python tools/golden.py write after.jsonl           # with the code as it is now
    python tools/golden.py compare before.jsonl after.jsonl

``write`` appends one JSON line per case and skips the cases that a file already has, so that a run can be stopped and
goes on with the same command. Several processes may share the work and the file (``--shard 1/2``, ``--shard 2/2``).
``compare`` wants integers and strings equal and floats to a relative 1e-9; it ends with exit code 1 at a difference.
``--only PREFIX`` restricts both to the keys that begin so; ``--only recorded/memory`` and ``--only
published/distilbert-sst2`` touch every room in a few minutes, everything takes about an hour on two cores.
``compare --ignore '$*.notes*'`` leaves out what is only worded anew.

The cases:

* ``recorded/<memory|time>/<key>``: every measured case of ``calibration/validation``, on the device that measured it;
* ``published/<source>/<method>/<device>``: one configuration per source of published memory figures, with every method
  and with its own, on every kind of device: one step, and a whole run over made-up data;
* ``recommend/<model>/<device>``: whole recommendations, as JSON.

Everything rests on stored device profiles and on the recorded calibration: nothing of this machine is measured or read.
The package is the one that Python imports, so ``PYTHONPATH`` chooses the code under guard; all else that is read lies
in the same repository (and in ``$ADVISOR_DEMO_DIR``). The user data directory is ``<output>.home`` unless ``--home``
names one. A kept home spares the traces of unchanged code; a fresh one guards against traces and replays that are kept
under too short a key, so the last comparison before a merge should be made with a fresh one.

Only the functions in the last part of this file touch the package's insides: when modules move, they alone change.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

RELATIVE = 1e-9
"""How far two floats may be apart."""
MOST_LINES = 40
"""Differences that are printed; the others are counted."""
ABSENT = "(absent)"
FIRST_VERSION_KNOBS = (
    *("rank", "lora_alpha", "lora_dropout", "target_modules", "unfrozen_layers", "sparsity", "l1_lambda"),
    "peft_config",
)

RECORDED_CPU = "cpu-intel-xeon-2c"
"""The device of the recorded calibration and of the recorded cases."""
SAFETY_LEVEL = 0.95


@dataclass(frozen=True)
class Unit:
    """Cases that share their traces and are computed together.

    Attributes:
        keys: Of the cases.
        compute: The result of one of them.
    """

    keys: tuple[str, ...]
    compute: Callable[[str], Any]


def write(output: Path, home: Path, only: str, shard: tuple[int, int]) -> None:
    """Compute the cases that ``output`` does not have yet.

    Args:
        output: JSON lines; appended to.
        home: User data directory of the computation.
        only: Beginning of the keys.
        shard: Which part of how many; parts are counted from 1.
    """
    prepare_home(home)
    done = set(read(output))
    places = {str(repository()): "REPOSITORY", str(home.resolve()): "HOME", str(demo_folder()): "DEMO"}
    part, parts = shard
    forget = known_cost_models().clear
    for number, unit in enumerate(units(only)):
        if number % parts != part - 1:
            continue
        forget()
        for key in unit.keys:
            if key in done or not key.startswith(only):
                continue
            started = time.perf_counter()
            result = without_places(outcome(unit, key), places)
            append(output, json.dumps({"key": key, "result": result}, sort_keys=True, allow_nan=False))
            print(f"{time.perf_counter() - started:7.2f} s  {key}", flush=True)


def outcome(unit: Unit, key: str) -> Any:
    """The result of a case, or the error that it ends with."""
    try:
        return unit.compute(key)
    except Exception as failure:
        return {"error": type(failure).__name__, "message": str(failure)}


def without_places(value: Any, places: dict[str, str]) -> Any:
    """A JSON value whose strings name no folder of this machine."""
    if isinstance(value, dict):
        return {without_places(key, places): without_places(item, places) for key, item in value.items()}
    if isinstance(value, list):
        return [without_places(item, places) for item in value]
    if isinstance(value, str):
        for place in sorted(places, key=len, reverse=True):
            value = value.replace(place, places[place])
    return value


def append(output: Path, line: str) -> None:
    """Add one line in one write, so that processes can share the file."""
    descriptor = os.open(output, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(descriptor, f"{line}\n".encode())
    finally:
        os.close(descriptor)


def read(path: Path) -> dict[str, Any]:
    """The results of a file by key; a line that a kill tore is left out, and ended so that another may follow."""
    if not path.exists():
        return {}
    text = path.read_text(encoding="utf-8")
    if text and not text.endswith("\n"):
        append(path, "")
    found = {}
    for number, line in enumerate(text.splitlines(), start=1):
        try:
            case = json.loads(line)
        except json.JSONDecodeError:
            print(f"{path}: line {number} is torn and left out", file=sys.stderr)
            continue
        found[case["key"]] = case["result"]
    return found


def compare(old_path: Path, new_path: Path, only: str, ignored: list[str]) -> int:
    """Print how two files differ.

    Args:
        old_path: Written before.
        new_path: Written after.
        only: Beginning of the keys.
        ignored: Patterns of JSON paths that may differ.

    Returns:
        The exit code: 1 where they differ, or have no case to compare.
    """
    old, new = ({k: v for k, v in read(path).items() if k.startswith(only)} for path in (old_path, new_path))
    keys = sorted(old.keys() | new.keys())
    lines, cases = [], set()
    for key in keys:
        for where, before, after in differences(old.get(key, ABSENT), new.get(key, ABSENT)):
            if not any(fnmatch.fnmatch(where, pattern) for pattern in ignored):
                cases.add(key)
                lines.append(f"{key} {where}: {shown(before)} -> {shown(after)}")
    print("\n".join(lines[:MOST_LINES]))
    if len(lines) > MOST_LINES:
        print(f"... and {len(lines) - MOST_LINES} more")
    print(f"{len(keys)} cases, {len(cases)} with differences, {len(lines)} differences")
    return 1 if lines or not keys else 0


def differences(old: Any, new: Any, where: str = "$") -> Iterator[tuple[str, Any, Any]]:
    """JSON path, old and new value of everything that differs."""
    if isinstance(old, dict) and isinstance(new, dict):
        for name in sorted(old.keys() | new.keys()):
            yield from differences(old.get(name, ABSENT), new.get(name, ABSENT), f"{where}.{name}")
    elif isinstance(old, list) and isinstance(new, list):
        if len(old) != len(new):
            yield f"{where}.length", len(old), len(new)
        for number, (before, after) in enumerate(zip(old, new, strict=False)):
            yield from differences(before, after, f"{where}[{number}]")
    elif isinstance(old, float) and isinstance(new, float):
        if not math.isclose(old, new, rel_tol=RELATIVE):
            yield where, old, new
    elif type(old) is not type(new) or old != new:
        yield where, old, new


def shown(value: Any) -> str:
    """A value in a line."""
    text = value if value is ABSENT else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 160 else f"{text[:157]}..."


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description="Compute all figures, or compare two files of them.")
    commands = parser.add_subparsers(dest="command", required=True)
    writing = commands.add_parser("write", help="compute the cases that a file does not have yet")
    writing.add_argument("output", type=Path)
    writing.add_argument("--home", type=Path, help="user data directory; <output>.home by default")
    writing.add_argument("--shard", default="1/1", help="which part of how many, for example 1/2")
    comparing = commands.add_parser("compare", help="compare two files")
    comparing.add_argument("old", type=Path)
    comparing.add_argument("new", type=Path)
    comparing.add_argument("--ignore", action="append", default=[], metavar="PATTERN", help="as in '$*.notes*'")
    for command in (writing, comparing):
        command.add_argument("--only", default="", metavar="PREFIX", help="keys that begin so")
    given = parser.parse_args(arguments)
    if given.command == "compare":
        return compare(given.old, given.new, given.only, given.ignore)
    part, parts = (int(number) for number in given.shard.split("/"))
    if not 1 <= part <= parts:
        parser.error(f"1 <= part <= parts must hold, but got --shard {given.shard}")
    write(given.output, given.home or Path(f"{given.output}.home"), given.only, (part, parts))
    return 0


# The cases.


def units(only: str) -> Iterator[Unit]:
    """All cases whose keys may begin with ``only``, always in the same order."""
    yield Unit(("environment",), lambda key: environment())
    yield from recorded_units()
    if PUBLISHED.startswith(only) or only.startswith(PUBLISHED):
        yield from published_units()
    yield from recommend_units()


def recorded_units() -> Iterator[Unit]:
    """The measured cases, those of a model and method together."""
    for path in sorted((repository() / "calibration" / "validation").glob("*.jsonl")):
        header, *records = (json.loads(line) for line in path.read_text(encoding="utf-8").splitlines())
        groups: dict[tuple[str, str], dict[str, Any]] = {}
        for record in records:
            groups.setdefault((record["model"], record["method"]), {})[f"recorded/{header['kind']}/{record['key']}"] = (
                record
            )
        for group in groups.values():
            yield Unit(tuple(group), lambda key, group=group, header=header: recorded_result(header, group[key]))  # type: ignore[misc]


def recorded_result(header: dict[str, Any], record: dict[str, Any]) -> dict[str, Any]:
    """What is predicted for a measured case: with the calibration, and as far as it may be transferred to the same
    processor as it was probed for these records.
    """
    asked, same_length = recorded_case(record)
    devices = {"estimate": named_device(RECORDED_CPU), "transferred": device_from(header["device"])}
    return {
        "label": record["label"],
        **{name: estimate(cost_model(d), on_threads(asked, d), None, same_length) for name, d in devices.items()},
    }


PUBLISHED = "published/"
METHODS = ["full", "partial", "head", "lora", "high_rank_lora", "hira", "sparse_lora", "qlora", "ia3", "peft"]
OWN = "own"
"""Instead of a method: what was published."""
DEVICES = (
    *("t4", "v100-sxm2-16gb", "rtx-3090", "rtx-4090", "l40s", "a100-sxm4-80gb", "h100-sxm5-80gb"),
    RECORDED_CPU,
)
DORA = "tests/fixtures/peft/dora.json"
"""The configuration of the method ``peft``."""


def published_units() -> Iterator[Unit]:
    """One configuration per source of published memory, as published and with every method, on every device."""
    for source, figure in published_figures().items():
        for method in (OWN, *METHODS):
            keys = tuple(f"{PUBLISHED}{source}/{method}/{device}" for device in DEVICES)
            yield Unit(keys, lambda key, source=source, figure=figure: published_result(key, source, figure))  # type: ignore[misc]


def published_result(key: str, source: str, figure: Any) -> dict[str, Any]:
    """One step at full length, and a whole run over made-up data."""
    _, _, method, device_name = key.split("/")
    device = named_device(device_name)
    asked = on_threads(published_case(source, figure, method), device)
    model = cost_model(device)
    length, labels = asked.execution.max_seq_length, figure.task == "sequence-classification"
    return {
        "label": figure.label,
        "step": estimate(model, asked, None, same_length=True),
        "run": estimate(model, asked, data_profile(length, labelled=labels), same_length=False),
    }


def data_profile(length: int, *, labelled: bool) -> Any:
    """Made-up data: 2,000 rows of all lengths up to ``length``, reading them included in what a run takes."""
    counts = [1 + 7 * cell % 5 for cell in range(length // 8)]
    lengths = [8 * (cell + 1) - 3 for cell, count in enumerate(counts) for _ in range(count)]
    values = {
        "train_rows": 2000,
        "eval_rows": 200,
        "token_length_quantiles": [lengths[part * (len(lengths) - 1) // 20] for part in range(21)],
        "max_token_length": length - 3,
        "max_seq_length": length,
        "sampled_rows": len(lengths),
        "class_counts": {"negative": 900, "positive": 1100} if labelled else {},
        "text_bytes": 2200 * 4 * length,
        "fingerprint": "made up",
        "length_counts": counts,
        **READING,
    }
    return data_profile_from(values)


READING = {"reading_s": 0.25, "tokenizing_s_per_row": 0.0002}
"""Instead of what reading the data takes here and now, which is part of a run's time."""
GIB = 2**30
RECOMMENDED = {
    "minilm": ("minilm", "movie-sentences", {"max_train_rows": 1600, "max_eval_rows": 800}),
    "smollm2": ("smollm2", "wikipedia", {"max_eval_rows": 40}),
    "mistral-7b": ("tests/fixtures/configs/mistral-7b-v0.1.json", "chats.jsonl", {}),
}
"""Model, data and how much of it; by what the keys say."""
BUDGETS = {
    "minilm": {
        RECORDED_CPU: {"memory_bytes": GIB, "time_s": 600.0, "min_quality": 0.7},
        "t4": {"memory_bytes": 2 * GIB},
    },
    "smollm2": {
        RECORDED_CPU: {"memory_bytes": 4 * GIB, "time_s": 3600.0},
        "rtx-4090": {"memory_bytes": 6 * GIB},
    },
    "mistral-7b": {
        RECORDED_CPU: {"memory_bytes": 20 * GIB},
        "t4": {"memory_bytes": 14 * GIB},
        "rtx-4090": {"memory_bytes": 20 * GIB, "time_s": 4 * 3600.0},
    },
}
"""By model and device."""


def recommend_units() -> Iterator[Unit]:
    """Whole recommendations."""
    for name, budgets in BUDGETS.items():
        keys = tuple(f"recommend/{name}/{device}" for device in budgets)
        yield Unit(keys, recommend_result)


def recommend_result(key: str) -> Any:
    """One recommendation as JSON."""
    _, name, device = key.split("/")
    model, data, rows = RECOMMENDED[name]
    model = str(repository() / model) if model.endswith(".json") else model
    data = str(write_chats()) if data == "chats.jsonl" else data
    return recommendation(model, data, rows, device, BUDGETS[name][device])


def write_chats() -> Path:
    """120 made-up conversations of one to three turns, the same every time."""
    topics = ["tides", "bread", "glaciers", "violins", "bridges", "vaccines", "comets", "bees", "sails", "clocks"]
    asks = ("What are {} made of?", "Why do people care about {}?", "Tell me something surprising about {}.")
    sentence = "There is more to {} than one answer can hold, but part {} of it is told quickly. "
    rows = []
    for number in range(120):
        topic, messages = topics[number % len(topics)], []
        for turn in range(1 + number % 3):
            words = sentence.format(topic, number + turn) * (1 + (5 * number + 3 * turn) % 11)
            messages.append({"role": "user", "content": asks[(number + turn) % len(asks)].format(topic)})
            messages.append({"role": "assistant", "content": words.strip()})
        rows.append(json.dumps({"messages": messages}))
    path = Path(os.environ["ADVISOR_HOME"]) / "chats.jsonl"
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return path


# What touches the package.


def repository() -> Path:
    """The repository of the imported package."""
    import advisor

    return Path(advisor.__file__).resolve().parents[1]


def demo_folder() -> Path:
    """Where the demo models and data lie."""
    return Path(os.environ.get("ADVISOR_DEMO_DIR", repository() / ".demo")).resolve()


def prepare_home(home: Path) -> None:
    """A user data directory that knows the recorded CPU and its calibration, and no device as this machine's."""
    os.environ["ADVISOR_HOME"] = str(home.resolve())
    recorded = repository() / "calibration" / "recorded" / f"{RECORDED_CPU}.json"
    (entry,) = json.loads(recorded.read_text(encoding="utf-8"))["calibrations"]
    for folder, content in (("profiles", entry["device"]), ("calibration", entry["calibration"])):
        path = home / folder / f"{RECORDED_CPU}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content), encoding="utf-8")
    for path in (home / "traces").glob("*.replays.json"):
        path.unlink(missing_ok=True)


def environment() -> dict[str, str]:
    """Versions that decide figures."""
    import platform
    from importlib.metadata import version

    packages = ("torch", "transformers", "peft", "accelerate", "bitsandbytes", "numpy")
    return {"python": platform.python_version(), **{package: version(package) for package in packages}}


def named_device(name: str) -> Any:
    """A stored device profile."""
    from advisor.hardware import load_profile

    return load_profile(name)


def device_from(values: dict[str, Any]) -> Any:
    """A device profile from JSON."""
    from advisor.core.device import DeviceProfile
    from advisor.core.serialization import from_dict

    return from_dict(DeviceProfile, values, what="the device")


@dataclass(frozen=True)
class Asked:
    """A model, a strategy and an execution plan, as the package's records."""

    model: Any
    strategy: Any
    execution: Any


def on_threads(asked: Asked, device: Any) -> Asked:
    """With the threads that plans for the device have, unless the case names its own."""
    import dataclasses

    if asked.execution.num_threads is not None:
        return asked
    return dataclasses.replace(asked, execution=dataclasses.replace(asked.execution, num_threads=device.num_threads))


def recorded_case(record: dict[str, Any]) -> tuple[Asked, bool]:
    """A measured case, and whether all its batches were of one length."""
    from advisor.experiments.validation.cases import Case
    from advisor.experiments.validation.predict import configure_case

    names = ("model", "method", "rows", "length", "task", "knobs", "execution", "mixed_lengths")
    config = configure_case(Case(**{name: record[name] for name in names}))
    return Asked(config.spec, config.strategy, config.execution), config.same_length


@cache
def known_cost_models() -> dict[str, Any]:
    """Cost models of this process."""
    return {}


def cost_model(device: Any) -> Any:
    """The cost model of a device, with the recorded calibration where it is the recorded CPU.

    Raises:
        RuntimeError: the recorded calibration is not used.
    """
    from advisor.core.serialization import to_json
    from advisor.pipeline.predicting import cost_model_for

    key, known = to_json(device), known_cost_models()
    if key not in known:
        known[key] = cost_model_for(device)
        if known[key].calibration is None and len(known) > 1:
            known[key] = next(iter(known.values())).on(device)
    if device.id == RECORDED_CPU and known[key].calibration is None:
        raise RuntimeError("the recorded calibration must be used, but it is not")
    return known[key]


def published_figures() -> dict[str, Any]:
    """One configuration per source, with small batches; makes their architectures and methods known."""
    from tests.costmodel.published import encoders, litgpt, litgpt_figures, litgpt_methods, qwen, swift, torchtune

    litgpt.register()
    qwen.register()
    add_strategies(litgpt_methods.ENTRY_POINTS)
    return {
        "bert-guide": by_label(encoders.GUIDE, "BERT-large, batch 1 x 4"),
        "distilbert-sst2": by_label(encoders.SST2, "DistilBERT SST-2, full, batch 8"),
        "snli": encoders.snli("deberta-v2-xxl", "lora", 64),
        "torchtune": by_label(torchtune.PACKED, "Llama 3.2 3B full, packed, 2 x 4096"),
        "litgpt-tutorial": by_label(litgpt_figures.TUTORIAL, "phi-1.5 lora, 1 x 1044"),
        "litgpt-hub": by_label(litgpt_figures.CONFIG_HUB, "mistral-7b lora, 2 x 512, attention"),
        "litgpt-hub-nf4": by_label(litgpt_figures.CONFIG_HUB_NF4, "llama-3.2-1b nf4, 2 x 512, attention"),
        "qwen": by_label(qwen.PROFILE, "Qwen-1.8B LoRA, 512"),
        "swift": by_label(swift.SWITCHES, "Qwen-7B LoRA, no checkpointing"),
    }


def add_strategies(entry_points: tuple[str, ...]) -> None:
    """Make strategies known to the registry, as if a package with these entry points were installed."""
    from advisor.strategies import registry

    info = Path(os.environ["ADVISOR_HOME"]) / "installed" / "golden_methods-1.0.dist-info"
    info.mkdir(parents=True, exist_ok=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: golden-methods\nVersion: 1.0\n", encoding="utf-8")
    lines = "\n".join(("[advisor.strategies]", *entry_points))
    (info / "entry_points.txt").write_text(f"{lines}\n", encoding="utf-8")
    sys.path.insert(0, str(info.parent))
    registry.forget()


def by_label(figures: list[Any], label: str) -> Any:
    """The figure of that label."""
    (figure,) = (figure for figure in figures if figure.label == label)
    return figure


def published_case(source: str, figure: Any, method: str) -> Asked:
    """The configuration of a published figure, with the defaults of a method or as it was.

    Raises:
        ValueError: the method does not suit the model.
    """
    from advisor.core.plan import ExecutionPlan
    from advisor.strategies import get_strategy
    from advisor.training.models import inspect_model

    path = Path(os.environ["ADVISOR_HOME"]) / "configs" / source / "config.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(figure.model), encoding="utf-8")
    knobs = figure.knobs if method == OWN else method_knobs(method)
    spec = inspect_model(str(path), figure.task)
    strategy = get_strategy(figure.method if method == OWN else method)
    config = strategy.configured(spec, **knobs)
    if problems := [*filter(None, [strategy.applies_to(spec)]), *strategy.problems(config, spec)]:
        raise ValueError("; ".join(problems))
    length = max(8, figure.length // 8 * 8)
    execution = {"micro_batch_size": figure.batch, "max_seq_length": length, "eval_batch_size": 1, **figure.execution}
    return Asked(spec, config, ExecutionPlan(**execution))


def method_knobs(method: str) -> dict[str, Any]:
    """What a method needs besides its defaults."""
    return {"peft_config": json.loads((repository() / DORA).read_text(encoding="utf-8"))} if method == "peft" else {}


def data_profile_from(values: dict[str, Any]) -> Any:
    """A data profile from JSON."""
    from advisor.core.data import DataProfile
    from advisor.core.serialization import from_dict

    return from_dict(DataProfile, values, what="the data profile")


def recommendation(model: str, data: str, rows: dict[str, int], device: str, budget: dict[str, Any]) -> Any:
    """A whole recommendation as JSON, with :data:`READING` for the time of reading the data."""
    import dataclasses

    from advisor.core.budget import Budget
    from advisor.core.serialization import to_dict
    from advisor.pipeline import recommending
    from advisor.pipeline.inputs import DataSource, load_inputs

    def timed_alike(*arguments: Any) -> Any:
        inputs = load_inputs(*arguments)
        return dataclasses.replace(inputs, profile=dataclasses.replace(inputs.profile, **READING))

    recommending.load_inputs = timed_alike
    found = recommending.recommend(
        model,
        DataSource(data, **rows),
        budget=Budget(**budget),
        device=device,
        methods=METHODS,
        **method_knobs("peft"),
    )
    return first_layout(to_dict(found))


def first_layout(value: Any) -> Any:
    """JSON with strategies as version 1 of a plan lists them: every knob, null where the method has no such knob."""
    if isinstance(value, list):
        return [first_layout(item) for item in value]
    if not isinstance(value, dict):
        return value
    values = {name: first_layout(item) for name, item in value.items()}
    if "strategy" in values and "schema_version" in values:
        values["schema_version"] = 1
    return {**dict.fromkeys(FIRST_VERSION_KNOBS), **values} if {"method", "lr_rel"} <= values.keys() else values


def estimate(model: Any, asked: Asked, data: Any, same_length: bool) -> dict[str, Any]:
    """Everything that the cost model says about a configuration."""
    from advisor.core.serialization import to_dict

    found = model.estimate(asked.model, asked.strategy, asked.execution, data, same_length=same_length)
    return {**to_dict(found), "upper_bytes": found.memory.quantile_bytes(SAFETY_LEVEL)}


if __name__ == "__main__":
    sys.exit(main())
