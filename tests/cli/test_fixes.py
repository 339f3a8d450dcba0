"""Every command and option that a message of the advisor names is there, and means what the message says."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import click

import advisor
from advisor.cli.app import app

PACKAGE = Path(advisor.__file__).parent
HOLE = "\0"
"""Stands for what an f-string fills in."""
FLAG = re.compile(r"(?<![\w-])--([a-z][a-z0-9]*(?:-[a-z0-9]+)*)(" + HOLE + r")?")
COMMAND = re.compile(r"\badvisor ((?:[a-z]+(?:-[a-z]+)* ?)+)")
OTHER_PROGRAMS = re.compile(r"\b(?:pip|git|iconv|nvidia-smi|docker|ps|du) [^`;,)]*| --hash=sha256:")
"""Commands of other programs, with their own options; and a line of pip's file of requirements."""


class Said(NamedTuple):
    """A string of the package that users may see."""

    where: str
    text: str


def strings() -> Iterator[Said]:
    """All string constants but docstrings, with ``HOLE`` where something is filled in."""
    for path in sorted(PACKAGE.rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        inside = set()
        for node in ast.walk(tree):
            if isinstance(node, ast.JoinedStr):
                inside |= {id(part) for part in ast.walk(node) if part is not node}
            if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
                inside.add(id(node.value))
        for node in ast.walk(tree):
            where = f"{path.relative_to(PACKAGE.parent)}:{getattr(node, 'lineno', 0)}"
            if id(node) in inside:
                continue
            if isinstance(node, ast.JoinedStr):
                yield Said(where, "".join(_part(part) for part in node.values))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield Said(where, node.value)


def _part(part: ast.expr) -> str:
    return str(part.value) if isinstance(part, ast.Constant) else HOLE


def commands(group: click.Group = app, name: str = "") -> Iterator[tuple[str, click.Command]]:
    """All commands by their full name: ``"calibrate run"``."""
    context = click.Context(group)
    for child in group.list_commands(context):
        command = group.get_command(context, child)
        assert command is not None
        yield f"{name}{child}", command
        if isinstance(command, click.Group):
            yield from commands(command, f"{name}{child} ")


COMMANDS = dict(commands())


def flags_of(command: click.Command) -> set[str]:
    names = [name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)]
    return {name.removeprefix("--") for name in names if name.startswith("--")} | {"help"}


def flags_of_modules() -> Iterator[str]:
    """Of what is started with ``python -m``: they declare their options with argparse."""
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "add_argument":
                names = [part.value for part in node.args if isinstance(part, ast.Constant)]
                yield from (str(name).removeprefix("--") for name in names if str(name).startswith("--"))


EVERY_FLAG = {flag for command in COMMANDS.values() for flag in flags_of(command)} | {"version"} | {*flags_of_modules()}
SAID = [
    Said(said.where, OTHER_PROGRAMS.sub(" ", said.text))
    for said in strings()
    if "--" in said.text or "advisor " in said.text
]


def is_for_users(said: Said) -> bool:
    """Declarations of options, and what is handed to processes of our own, are no messages."""
    return " " in said.text.strip()


MESSAGES = [said for said in SAID if is_for_users(said)]


def test_there_are_messages_to_look_at() -> None:
    assert len(MESSAGES) > 100
    assert sum(bool(FLAG.search(said.text)) for said in MESSAGES) > 80


def test_every_option_that_is_named_exists() -> None:
    unknown = [
        f"{said.where}: --{match[1]}"
        for said in MESSAGES
        for match in FLAG.finditer(said.text)
        if not match[2] and match[1] not in EVERY_FLAG
    ]
    assert not unknown


def test_every_command_that_is_named_exists() -> None:
    unknown = []
    for said in MESSAGES:
        for match in re.finditer(r"`advisor ([^`]*)`", said.text):
            words = match[1].split()
            name = " ".join(words[:2]) if " ".join(words[:2]) in COMMANDS else words[0]
            if HOLE in words[0]:
                continue
            if name not in COMMANDS:
                unknown.append(f"{said.where}: advisor {match[1]}")
                continue
            if isinstance(COMMANDS[name], click.Group) and len(words) > 1 and not words[1].startswith(("-", HOLE)):
                unknown.append(f"{said.where}: advisor {match[1]}")
            wrong = [
                flag[1] for flag in FLAG.finditer(match[1]) if not flag[2] and flag[1] not in flags_of(COMMANDS[name])
            ]
            unknown += [f"{said.where}: {name} has no --{flag}" for flag in wrong]
    assert not unknown


def test_options_whose_names_are_filled_in_exist() -> None:
    """There are two such messages: they fill in the option of a method's own knob, and those that name columns."""
    from advisor.strategies import get_strategy, strategy_names
    from advisor.training.data import recognising

    places = {said.where.partition(":")[0] for said in MESSAGES if f"--{HOLE}" in said.text}
    assert places == {"advisor/training/data/recognising.py", "advisor/pipeline/predicting.py"}
    knobs = {get_strategy(name).user_knob for name in strategy_names()} - {None}
    assert {str(knob).replace("_", "-") for knob in knobs} <= EVERY_FLAG
    columns = set(re.findall(r"text_column|text_pair_column|label_column", Path(recognising.__file__).read_text()))
    assert columns and {column.replace("_", "-") for column in columns} <= EVERY_FLAG
