"""``advisor devices`` and ``advisor methods``: the values that other commands accept."""

from __future__ import annotations

import click

from advisor.cli.options import json_option
from advisor.cli.output import print_answer


@click.command("devices")
@json_option
def devices_command(as_json: bool) -> None:
    """List the known devices.

    JSON: a list of device profiles.

    \b
    Example:
      advisor devices
    """
    from advisor.hardware import load_profile, profile_names
    from advisor.reporting.device import print_device_list

    print_answer([load_profile(name) for name in profile_names()], as_json, print_device_list)


@click.command("methods")
@json_option
def methods_command(as_json: bool) -> None:
    """List the fine-tuning strategies and their defaults.

    JSON: a list with name, title, knobs (the strategy's own, with defaults) and defaults_source.

    \b
    Example:
      advisor methods
    """
    from advisor.reporting.text import print_methods
    from advisor.strategies import get_strategy, strategy_names

    strategies = [get_strategy(name) for name in strategy_names()]
    rows = [
        {"name": s.name, "title": s.title, "knobs": s.knobs(), "defaults_source": s.defaults_source} for s in strategies
    ]
    print_answer(rows, as_json, print_methods)
