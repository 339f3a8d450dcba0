"""``advisor probe``."""

from __future__ import annotations

import click

from advisor.cli.options import json_option


@click.command("probe")
@click.option("--quick", is_flag=True, help="About 15 seconds instead of 60; wider spreads.")
@click.option("--device", metavar="DEVICE", help="cpu, cuda or cuda:1; by default the first GPU, else the CPU.")
@json_option
def probe_command(quick: bool, device: str | None, as_json: bool) -> None:
    """Find out what this machine can do, and remember it.

    Tries data types, attention kernels and bitsandbytes; times matrix products, attention, memory traffic by operator,
    optimizer steps, copies and overheads, each with its spread; on a CPU finds the number of threads that trains
    fastest. Stores a device profile that the other commands plan for. JSON: the device profile with every point.

    \b
    Example:
      advisor probe --quick
    """
    from advisor.cli.output import answer_console, print_json, progress
    from advisor.pipeline import probe

    with progress() as on_event:
        profile = probe(quick=quick, device=device, on_event=on_event)
    if as_json:
        print_json(profile)
        return
    from advisor.reporting.device import print_device

    print_device(answer_console(), profile)
