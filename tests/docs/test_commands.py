"""Every advisor command that the documentation or the Makefile shows exists and takes the options shown."""

from __future__ import annotations

import contextlib
import re
import shlex

import click
import pytest

from advisor.cli.app import app
from tests.docs.pages import PAGES, REPOSITORY, code_blocks, text_of, without_code

UNSET = re.compile(r" \$\((?:PROBE|CALIBRATE)\)")
"""Makefile variables that are empty unless the user sets them."""


def named_commands() -> list[str]:
    """Command lines in code spans, which may leave arguments out."""
    found = [span for page in PAGES for span in re.findall(r"`(advisor [a-z][^`]*)`", without_code(text_of(page)))]
    return sorted({" ".join(span.split()) for span in found})


def typed_commands() -> list[str]:
    """Complete command lines: in shell blocks of the pages, and in the Makefile's recipes."""
    found: list[str] = []
    for text in map(text_of, PAGES):
        found += _lines(code_blocks(text, "bash"), "")
        found += _lines(code_blocks(text, "console"), "$ ")
    recipes = _lines([text_of(REPOSITORY / "Makefile")], "\t$(BIN)/")
    return sorted({*found, *(UNSET.sub("", line) for line in recipes)})


def _lines(blocks: list[str], prompt: str) -> list[str]:
    start = f"{prompt}advisor "
    lines = [line for block in blocks for line in re.sub(r"\\\n\s*", " ", block).splitlines() if line.startswith(start)]
    return [re.sub(r"\s+#.*", "", line.removeprefix(prompt)).strip() for line in lines]


def parse(command: click.Command, words: list[str], parent: click.Context | None = None) -> None:
    """Parse without running.

    Raises:
        click.ClickException: there is no such command, argument or option.
    """
    if isinstance(command, click.Group) and words and not words[0].startswith("-"):
        context = click.Context(command, info_name=command.name, parent=parent)
        inner = command.get_command(context, words[0])
        if inner is None:
            raise click.UsageError(f"no such command: {words[0]}")
        parse(inner, words[1:], context)
    elif words:
        command.make_context(command.name, words, parent=parent)


@pytest.mark.parametrize("line", typed_commands())
def test_typed_command_parses(line: str) -> None:
    parse(app, shlex.split(line)[1:])


@pytest.mark.parametrize("line", named_commands())
def test_named_command_exists(line: str) -> None:
    with contextlib.suppress(click.MissingParameter):
        parse(app, shlex.split(line)[1:])


OTHERS = {"--check"}
"""Options of other programs that the pages name."""
TOOL_PAGES = ("phantom-gpu.md",)
"""Pages about tools of the tests, which have options of their own."""


def named_options() -> set[str]:
    """Options in code spans, wherever they stand in the span."""
    pages = [page for page in PAGES if page.name not in TOOL_PAGES]
    spans = [span for page in pages for span in re.findall(r"`([^`\n]+)`", without_code(text_of(page)))]
    ours = [span for span in spans if not span.startswith(("python", "pip", "pytest", "make"))]
    return {name for span in ours for name in re.findall(r"(?<![\w-])--[a-z][a-z0-9-]+", span)}


def known_options(group: click.Group) -> set[str]:
    """Every spelling of every option of every command."""
    found: set[str] = {"--help"}
    for name in group.list_commands(click.Context(group)):
        command = group.get_command(click.Context(group), name)
        assert command is not None
        if isinstance(command, click.Group):
            found |= known_options(command)
        found |= {spelling for option in command.params for spelling in (*option.opts, *option.secondary_opts)}
    return found


def test_named_options_exist() -> None:
    assert named_options() - known_options(app) - OTHERS == set()
    assert len(named_options()) >= 40


def test_an_option_that_does_not_exist_is_noticed() -> None:
    assert not {"--no-such-option"} <= known_options(app)
    assert {"--rank", "--no-padding", "--fresh"} <= known_options(app)


def test_commands_are_found() -> None:
    assert len(typed_commands()) >= 30
    assert len(named_commands()) >= 20


@pytest.mark.parametrize("line", ["predikt x", "predict model --no-such-option", "devices --json surplus"])
def test_wrong_commands_are_noticed(line: str) -> None:
    with pytest.raises(click.UsageError) as noticed:
        parse(app, line.split())
    assert not isinstance(noticed.value, click.MissingParameter)
