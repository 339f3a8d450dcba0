"""What the README says can be typed: every command in it parses, every documented key exists."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest

from advisor.cli.app import _COMMANDS, app
from advisor.core.serialization import to_dict
from advisor.strategies import strategy_names
from tests.core.records import cost_estimate

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
MAKEFILE = (Path(__file__).parents[2] / "Makefile").read_text(encoding="utf-8").replace("\\\n", " ")


def typed_commands() -> list[str]:
    """Command lines in code spans and console blocks of the README, and in the Makefile's recipes."""
    spans = re.findall(r"`(advisor [a-z]+[^`]*)`", README)
    blocks = [line[2:] for line in README.splitlines() if line.startswith("$ advisor ")]
    recipes = [line.split("/", 1)[1].strip() for line in MAKEFILE.splitlines() if line.startswith("\t$(BIN)/advisor ")]
    unset = re.compile(r" \$\((?:PROBE|CALIBRATE)\)")
    lines = [unset.sub("", line) for line in (*spans, *blocks, *recipes)]
    return [line for line in lines if line.split()[1] in _COMMANDS]


@pytest.mark.parametrize("line", typed_commands())
def test_every_command_that_is_shown_parses(line: str) -> None:
    words = shlex.split(line)[1:]
    context = click.Context(app, info_name="advisor")
    command = app.get_command(context, words[0])
    assert command is not None
    arguments = words[1:]
    if len(words) == 1:
        return  # the bare name of a command
    if words[0] == "run" and not {"-o", "--output"} & set(arguments):
        arguments = [*arguments, "-o", "out"]
    command.make_context(words[0], arguments, parent=context)


def test_there_is_something_to_check() -> None:
    assert len(typed_commands()) >= 12


def test_the_documented_cost_keys_exist() -> None:
    cost = to_dict(cost_estimate())
    names = set(re.findall(r"`(?:memory|time|quality)?\.?([a-z_]+_(?:bytes|s)|fits|metric|p_at_least)`", README))
    known = {*cost, *cost["memory"], *cost["memory"]["breakdown"], *cost["time"], *cost["quality"]}
    assert {"allocated_bytes", "device_bytes", "step_s", "total_s", "fits"} <= names & known


def test_the_strategy_table_is_complete() -> None:
    table = README.split("## Strategies", 1)[1].split("##", 1)[0]
    assert re.findall(r"^\| `([a-z0-9_]+)` \|", table, flags=re.MULTILINE) == list(strategy_names())
