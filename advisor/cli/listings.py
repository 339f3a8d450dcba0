"""``advisor devices`` and ``advisor methods``: the values that other commands accept."""

from __future__ import annotations

import click

from advisor.cli.options import json_option


@click.command("devices")
@json_option
def devices_command(as_json: bool) -> None:
    """List the known devices.

    JSON: a list of device profiles.

    \b
    Example:
      advisor devices
    """
    from advisor.cli.output import answer_console, print_json
    from advisor.hardware import load_profile, profile_names

    profiles = [load_profile(name) for name in profile_names()]
    if as_json:
        print_json(profiles)
        return
    from advisor.reporting.device import print_device_list

    print_device_list(answer_console(), profiles)


@click.command("methods")
@json_option
def methods_command(as_json: bool) -> None:
    """List the fine-tuning strategies, built in and installed.

    JSON: a list with name, title, knobs (the strategy's own, with defaults) and defaults_source.

    \b
    Example:
      advisor methods
    """
    from advisor.cli.output import answer_console, print_json
    from advisor.core.serialization import to_dict
    from advisor.strategies import get_strategy, strategy_names

    strategies = [get_strategy(name) for name in strategy_names()]
    rows = [
        {"name": s.name, "title": s.title, "knobs": to_dict(s.knobs()), "defaults_source": s.defaults_source}
        for s in strategies
    ]
    if as_json:
        print_json(rows)
        return
    from advisor.reporting.methods import print_methods

    print_methods(answer_console(), rows)
