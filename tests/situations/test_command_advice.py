"""Advice about models, budgets, devices, methods, plans and studies is followed: the next answer is another one, and no
worse.
"""

from __future__ import annotations

import dataclasses
import json
import pickle
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Advisor, Answer, advisor, cpu_profile, model_dir, table  # noqa: F401
from tests.core.records import make_plan

Arguments = list[str]

FLAG = r"--[a-z][a-z-]*"
NEAR = r"did you mean ([\w.-]+)|(?:choose from|one of|there are) '?([\w.-]+)"


class Place:
    """Files for one case, made when they are asked for."""

    def __init__(self, folder: Path, model: Path, rows: Path) -> None:
        self.folder, self.model, self.rows = folder, str(model), str(rows)

    def changed_model(self, name: str, **config: Any) -> Path:
        target = self.folder / name
        shutil.copytree(self.model, target)
        values = json.loads((target / "config.json").read_text()) | config
        (target / "config.json").write_text(json.dumps(values))
        return target

    def pickled(self) -> str:
        target = self.changed_model("pickled")
        (target / "model.safetensors").unlink()
        (target / "pytorch_model.bin").write_bytes(pickle.dumps({}))
        return str(target)

    def adapter(self) -> str:
        target = self.folder / "adapter"
        target.mkdir()
        values = {"peft_type": "LORA", "base_model_name_or_path": self.model, "r": 4, "target_modules": ["query"]}
        (target / "adapter_config.json").write_text(json.dumps(values))
        return str(target)

    def file(self, name: str, text: str) -> str:
        (self.folder / name).write_text(text)
        return str(self.folder / name)

    def plan(self, **changes: Any) -> str:
        path = self.folder / "plan.json"
        dataclasses.replace(make_plan(), **changes).save(path)
        return str(path)

    def occupied(self) -> str:
        (self.folder / "full").mkdir()
        (self.folder / "full" / "thesis.tex").write_text("precious")
        return str(self.folder / "full")


def predict(*options: str) -> Callable[[Place], Arguments]:
    return lambda at: ["predict", at.model, "--task", "sequence-classification", "--device", "t4", *options]


def recommend(*options: str) -> Callable[[Place], Arguments]:
    return lambda at: ["recommend", at.model, "--data", at.rows, "--device", "t4", "--methods", "head", *options]


def of(model: Callable[[Place], str], *options: str) -> Callable[[Place], Arguments]:
    return lambda at: ["predict", model(at), "--task", "sequence-classification", "--device", "t4", *options]


def tune(study: str) -> Callable[[Place], Arguments]:
    return lambda at: [
        *("tune", at.model, "--data", at.rows, "--study-dir", study, "--budget", "1s", "--methods", "head")
    ]


CASES: dict[str, Callable[[Place], Arguments]] = {
    "a method by a near name": predict("--method", "lorra"),
    "no task": lambda at: ["predict", at.file("config.json", '{"model_type": "bert"}'), "--device", "t4"],
    "a method that needs a file": predict("--method", "peft"),
    "a folder without a PEFT configuration": lambda at: predict("--method", "peft", "--peft-config", at.occupied())(at),
    "a length beyond the positions": predict("--seq-length", "100"),
    "a model that is not there": of(lambda at: str(at.folder / "none")),
    "weights as the model": of(lambda at: at.file("model.safetensors", "x")),
    "an adapter as the model": of(Place.adapter),
    "pickled weights": of(Place.pickled),
    "code of its own": of(lambda at: str(at.changed_model("own", model_type="mine", auto_map={"AutoModel": "a.B"}))),
    "an unknown architecture": of(lambda at: str(at.changed_model("odd", model_type="berd"))),
    "quantised weights": of(lambda at: str(at.changed_model("packed", quantization_config={"quant_method": "gptq"}))),
    "a budget without a unit": recommend("--memory", "8"),
    "a time without a unit": recommend("--time", "2"),
    "no method fits": recommend("--memory", "1MiB"),
    "a method of trials by a near name": lambda at: [*tune(str(at.folder / "study"))(at)[:-1], "hed"],
    "a device by a near name": lambda at: ["devices", "show", "rtx-4600"],
    "a calibration that is not there": lambda at: ["calibrate", "show"],
    "a file that is no calibration": lambda at: ["calibrate", "import", at.file("c.json", "{}")],
    "runs that are not there": lambda at: ["validate", "runs", str(at.folder / "none")],
    "a run to evaluate that is not there": lambda at: ["evaluate", str(at.folder / "none"), "--data", at.rows],
    "a folder that is no run": lambda at: ["evaluate", at.occupied(), "--data", at.rows],
    "one run to compare": lambda at: ["compare", str(at.folder / "none")],
    "runs to compare that are not there": lambda at: ["compare", str(at.folder / "a"), str(at.folder / "b")],
    "an option that doctor has not": lambda at: ["doctor", "--devices"],
    "a method that is not there": lambda at: [*recommend()(at)[:-1], "hed"],
    "evidence for another machine": recommend("--evidence", "10s"),
    "an output that exists": lambda at: recommend("--output", at.file("plan.json", "precious"))(at),
    "a plan that is not there": lambda at: ["run", str(at.folder / "none.json"), "--output", str(at.folder / "out")],
    "a plan that is damaged": lambda at: ["run", at.file("plan.json", '{"a": 1'), "--output", str(at.folder / "out")],
    "a plan of a newer version": lambda at: ["run", at.file("p.json", '{"schema_version": 99}'), "--output", "out"],
}  # fmt: skip

FOR_PEOPLE = {
    "a model that is not there": "check the path",
    "a plan that is not there": "check the path",
    "weights as the model": "the folder that holds config.json",
    "a plan that is damaged": "restore",
    "a plan of a newer version": "upgrade",
    "code of its own": "read that code, then pass --trust-remote-code",
    "quantised weights": "name the original model",
    "a method that needs a file": "pass --peft-config",
    "a calibration that is not there": "advisor calibrate run",
    "a file that is no calibration": "advisor calibrate export FILE",
    "runs that are not there": "advisor run --output",
    "a run to evaluate that is not there": "a finished run",
    "a folder that is no run": "a finished run",
    "one run to compare": "a finished run",
    "runs to compare that are not there": "a finished run",
    "a folder without a PEFT configuration": "check the path",
    "an unknown architecture": "",
    "no method fits": "",
}
"""Cases whose fix only people can follow, with words that it has: it asks for another file, or to measure."""


def followed(arguments: Arguments, answer: dict[str, Any], at: Place) -> Arguments | None:
    """The command after doing what the fix says; ``None`` where only people can."""
    fix, message = str(answer["fix"]), str(answer["message"])
    if helped := re.search(r"`\w+ ([a-z -]+ --help)`", fix):
        return helped[1].split()
    if dropped := re.search(rf"(?:omit|leave out|leave|without|drop) ({FLAG})", fix):
        return _without(arguments, dropped[1])
    if "leave it out" in fix or "leave out what is named" in fix:
        said = " ".join([message, *map(str, answer["problems"])])
        named = [word for word in arguments if word.startswith("--") and word[2:].replace("-", "_") in said.split()]
        valued = [arguments[i - 1] for i, word in enumerate(arguments) if i and word in said and "_" in word]
        return _without(arguments, [*named, *valued][0]) if named or valued else None
    if near := re.search(NEAR, fix):
        wrong = next((word for word in arguments if re.search(rf"['\" ]{re.escape(word)}\b", message)), None)
        if wrong is not None:
            return [(near[1] or near[2]) if word == wrong else word for word in arguments]
    if "another --output" in fix or "another --study-dir" in fix or "--study-dir" in fix:
        flag = "--output" if "--output" in fix else "--study-dir"
        return _with(arguments, flag, str(at.folder / "fresh"))
    if named := re.match(r"name (/\S+?);", fix):
        return [named[1] if word == arguments[1] else word for word in arguments]
    for flag, value in re.findall(rf"({FLAG})(?:[ =]([\w./-]+))?", fix):
        if flag in ("--force", "--allow-pickle", "--any-device", "--resume"):
            return [*arguments, flag]
        if value and not value.isupper() and value != "with":
            return _with(arguments, flag, value)
    if number := re.search(r"(?:at most|up to) (\d+)", f"{fix} {message}"):
        wrong = next((word for word in arguments if word.isdigit() and word in message), None)
        return [number[1] if word == wrong else word for word in arguments] if wrong else None
    if example := re.search(r"(?:for example|such as|like) ['`]?(?:--\w+[ =])?([\w.]+)", f"{fix} {message}"):
        wrong = next((word for word in arguments if f"'{word}'" in message), None)
        return [example[1] if word == wrong else word for word in arguments] if wrong else None
    return None


def _without(arguments: Arguments, flag: str) -> Arguments:
    at = arguments.index(flag)
    has_value = at + 1 < len(arguments) and not arguments[at + 1].startswith("--")
    return arguments[:at] + arguments[at + 1 + has_value :]


def _with(arguments: Arguments, flag: str, value: str) -> Arguments:
    if flag in arguments:
        at = arguments.index(flag)
        return [*arguments[: at + 1], value, *arguments[at + 2 :]]
    return [*arguments, flag, value]


def error_of(answer: Answer) -> dict[str, Any]:
    found: dict[str, Any] = answer.json
    return found


@pytest.mark.slow
@pytest.mark.usefixtures("cpu_profile")
@pytest.mark.parametrize("case", CASES)
def test_following_the_fix_leads_on(
    case: str,
    advisor: Advisor,  # noqa: F811
    model_dir: Path,  # noqa: F811
    table: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    at = Place(tmp_path, model_dir, table)
    arguments, told = CASES[case](at), []
    for _ in range(4):
        answer = advisor(*arguments, *([] if "--help" in arguments else ["--json"]))
        if answer.code == 0:
            break
        error = error_of(answer)
        if answer.code == 3:  # nothing fits: the advice says what would
            assert error["advice"] or error["rejected"]
            break
        assert answer.code == 2, error
        assert error["fix"], error["message"]
        assert error["message"] not in told, f"in circles: {[*told, error['message']]}"
        told.append(error["message"])
        step = followed(arguments, error, at)
        if step is None:
            assert case in FOR_PEOPLE, f"only people can follow this: {error['message']} FIX {error['fix']}"
            assert FOR_PEOPLE[case] in error["fix"]
            break
        arguments = step
    else:
        raise AssertionError(f"four steps did not help: {told}")
    assert told or answer.code == 3, "the case is no problem any more"
