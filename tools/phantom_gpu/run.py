#!/usr/bin/env python3
"""Runs a command on cards that are not there.

::

    python tools/phantom_gpu/run.py --card rtx-4090 -- advisor predict MODEL --method lora
    python tools/phantom_gpu/run.py --card a100-40gb:mig=3g.20gb --nvml denied -- advisor probe --quick
    python tools/phantom_gpu/run.py --card t4:filled=9GiB --card t4 --fault ecc@20000 -- advisor run plan.json

The command runs in the environment that ``make phantom`` has made, with the stand-ins for NVIDIA's libraries loaded
first; every process that it starts inherits them. ``advisor`` and ``python`` are those of that environment, and the
package is that of this repository. The exit code is the command's.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from tools.phantom_gpu.world import (  # noqa: E402
    Stage,
    World,
    WorldError,
    card_table,
    make_card,
    parse_fault,
    parse_size,
)


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line, parsed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--card",
        action="append",
        metavar="NAME[:KEY=VALUE,…]",
        help=f"{', '.join(card_table())}; again for another card; settings: memory, context, filled, mig, …",
    )
    parser.add_argument("--nvml", choices=("ok", "absent", "denied", "no-processes", "lost"), default="ok")
    parser.add_argument("--fault", metavar="NAME@LAUNCH", help="ecc, illegal-address, assert or lost, at a launch")
    parser.add_argument("--refuse-beyond", metavar="SIZE", default="0", help="refuse device memory beyond this")
    parser.add_argument("--driver-cuda", type=int, default=13000, help="newest CUDA of the driver; 13000 is 13.0")
    parser.add_argument("--bool", type=int, default=1, help="what one byte of unknown memory reads")
    parser.add_argument("--trace", default="", help="calls, errors, reads (comma-separated), to standard error")
    parser.add_argument("--launches", type=Path, help="file for a count of launches by kernel")
    parser.add_argument("--environment", type=Path, default=default_environment())
    parser.add_argument("command", nargs=argparse.REMAINDER, help="after --")
    options = parser.parse_args(argv)
    options.command = options.command[1:] if options.command[:1] == ["--"] else options.command
    if not options.command:
        parser.error("a command must follow --")
    return options


def default_environment() -> Path:
    """``$PHANTOM_ENVIRONMENT``, else ``.venv-phantom`` in the repository."""
    return Path(os.environ.get("PHANTOM_ENVIRONMENT") or ROOT / ".venv-phantom")


def world_of(options: argparse.Namespace) -> World:
    """The world that the options describe.

    Raises:
        WorldError: an option that means nothing.
    """
    fault, launch = parse_fault(options.fault) if options.fault else ("", 0)
    return World(
        cards=tuple(make_card(spec, index) for index, spec in enumerate(options.card or ["rtx-4090"])),
        nvml=options.nvml,
        driver_cuda=options.driver_cuda,
        bool_value=options.bool,
        fault=fault,
        fault_launch=launch,
        fault_bytes=parse_size(options.refuse_beyond),
    )


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    options = arguments(argv)
    extra = {"PHANTOM_TRACE": options.trace} if options.trace else {}
    if options.launches:
        extra["PHANTOM_LAUNCHES"] = str(options.launches.resolve())
    with tempfile.TemporaryDirectory(prefix="phantom-") as folder:
        try:
            stage = Stage(options.environment.resolve(), Path(folder), world_of(options), extra)
            variables = stage.variables(os.environ)
        except WorldError as failure:
            print(f"error: {failure}", file=sys.stderr)
            return 2
        command = list(options.command)
        if command[0] == "advisor":
            command[:1] = [str(stage.python), "-m", "advisor"]
        elif command[0] == "python":
            command[0] = str(stage.python)
        process = subprocess.Popen(command, env=variables)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda signum, frame: process.send_signal(signum))
        return process.wait()


if __name__ == "__main__":
    sys.exit(main())
