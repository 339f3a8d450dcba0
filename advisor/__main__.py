"""The ``advisor`` command; also ``python -m advisor``."""

from __future__ import annotations

import signal
import sys


def main() -> None:
    """Run the command line and leave with its exit code.

    Ctrl-C before there is a command line to answer it, or once more while it answers, leaves as quietly; from then on
    there is nothing left to stop.
    """
    try:
        from advisor.cli.app import app

        app(prog_name="advisor")
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        print("interrupted: stopped by Ctrl-C", file=sys.stderr)
        sys.exit(130)
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)


if __name__ == "__main__":
    main()
