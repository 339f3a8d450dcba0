"""The golden guard: every figure that the advisor answers, before and after a change of its code.

::

    python tools/golden.py write before.jsonl          # with the code as it was
    python tools/golden.py write after.jsonl           # with the code as it is now
    python tools/golden.py compare before.jsonl after.jsonl

``write`` appends one JSON line per case and skips the cases that a file already has, so that a run can be stopped and
goes on with the same command. Several processes may share the work and the file (``--shard 1/2``, ``--shard 2/2``).
``compare`` wants integers and strings equal and floats to a relative 1e-9; it ends with exit code 1 at a difference.
``--only PREFIX`` restricts both to the keys that begin so.

The cases:

* ``recorded/<memory|time>/<key>``: every measured case of ``calibration/validation``, on the device that measured it;
* ``published/<source>/<method>/<device>``: one configuration per source of published memory figures, with every method
  on every kind of device: one step, and a whole run over made-up data;
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
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

RELATIVE = 1e-9
"""How far two floats may be apart."""
MOST_LINES = 40
"""Differences that are printed; the others are counted."""
ABSENT = "(absent)"

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
    for number, unit in enumerate(units(only)):
        if number % parts != part - 1:
            continue
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


def main() -> int:
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
    given = parser.parse_args()
    if given.command == "compare":
        return compare(given.old, given.new, given.only, given.ignore)
    part, parts = (int(number) for number in given.shard.split("/"))
    if not 1 <= part <= parts:
        parser.error(f"1 <= part <= parts must hold, but got --shard {given.shard}")
    write(given.output, given.home or Path(f"{given.output}.home"), given.only, (part, parts))
    return 0


# The cases.


def units(only: str) -> Iterator[Unit]:
    """All cases whose keys may begin with ``only``, in an order that does not depend on it."""
    yield Unit(("environment",), lambda key: environment())
    yield from recorded_units()


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
    from advisor.costmodel.validation.case import Case
    from advisor.costmodel.validation.question import question_of

    names = ("model", "method", "rows", "length", "task", "knobs", "execution", "mixed_lengths")
    question = question_of(Case(**{name: record[name] for name in names}))
    return Asked(question.spec, question.strategy, question.execution), question.same_length


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
    if device.id == RECORDED_CPU and known[key].calibration is None:
        raise RuntimeError("the recorded calibration must be used, but it is not")
    return known[key]


def estimate(model: Any, asked: Asked, data: Any, same_length: bool) -> dict[str, Any]:
    """Everything that the cost model says about a configuration."""
    from advisor.core.serialization import to_dict

    found = model.estimate(asked.model, asked.strategy, asked.execution, data, same_length=same_length)
    return {**to_dict(found), "upper_bytes": model.memory_quantile_bytes(found, SAFETY_LEVEL)}


if __name__ == "__main__":
    sys.exit(main())
