"""``advisor probe``."""

from __future__ import annotations

import click

from advisor.cli.options import json_option


@click.command("probe")
@click.option("--quick", is_flag=True, help="Take about 15 seconds instead of 60; less precise.")
@click.option("--device", metavar="DEVICE", help="cpu, cuda or cuda:1; by default the first GPU, else the CPU.")
@json_option
def probe_command(quick: bool, device: str | None, as_json: bool) -> None:
    """Measure this machine and store the result as a device profile.

    Tries data types, attention kernels and bitsandbytes; times matrix products, attention, memory traffic by operator,
    optimizer steps, copies and overheads, each with its spread; on a CPU also finds the fastest number of threads for
    training. The other commands use the profile. JSON: the device profile with every measured point.

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
