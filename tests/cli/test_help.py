"""Help is real, quick, and costs no heavy import."""

import os
import resource
import statistics
import subprocess
import sys

import click
import pytest

from advisor.cli.app import _COMMANDS, app
from tests.cli.conftest import Advisor

HEAVY = ("torch", "transformers", "peft", "datasets", "optuna", "numpy", "pydantic", "rich")


def leaves(name: str) -> list[tuple[str, ...]]:
    """A command, or the commands of a group."""
    command = app.get_command(click.Context(app), name)
    return [(name, member) for member in command.commands] if isinstance(command, click.Group) else [(name,)]


@pytest.mark.parametrize("command", list(_COMMANDS))
def test_every_command_explains_itself_with_an_example(advisor: Advisor, command: str) -> None:
    answer = advisor(command, "--help")
    assert answer.code == 0
    assert f"advisor {command}" in answer.stdout.split("Example", 1)[1]


@pytest.mark.parametrize("command", [leaf for name in _COMMANDS for leaf in leaves(name)], ids=" ".join)
def test_every_command_says_what_its_json_holds(advisor: Advisor, command: tuple[str, ...]) -> None:
    answer = advisor(*command, "--help")
    assert answer.code == 0
    assert "--json" in answer.stdout
    assert "JSON" in answer.stdout.split("Options:", 1)[0]


def test_the_first_screen_names_all_commands_and_exit_codes(advisor: Advisor) -> None:
    answer = advisor("--help")
    assert answer.code == 0
    assert all(f"  {command} " in answer.stdout for command in _COMMANDS)
    assert "130 interrupted" in answer.stdout


def test_help_takes_less_than_half_a_second_of_processor_time() -> None:
    def seconds() -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-m", "advisor", "--help"], check=True, capture_output=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    assert statistics.median(seconds() for _ in range(3)) < 0.5


@pytest.mark.parametrize("command", ["", *_COMMANDS])
def test_help_imports_nothing_heavy(command: str) -> None:
    program = (
        "import sys\n"
        "from advisor.cli.app import app\n"
        "try:\n"
        f"    app({[command, '--help'] if command else ['--help']!r})\n"
        "except SystemExit:\n"
        f"    print([name for name in {HEAVY!r} if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True, env=os.environ)
    assert done.stdout.splitlines()[-1] == "[]"


def test_importing_the_package_imports_no_room() -> None:
    program = (
        "import sys, advisor\n"
        "rooms = {name.split('.')[1] for name in sys.modules if name.startswith('advisor.')}\n"
        "print(sorted(rooms), callable(advisor.predict))"
    )
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[] True", "rooms are imported when something is asked of them"
