"""The ``advisor`` command; also ``python -m advisor``."""

from __future__ import annotations


def main() -> None:
    """Run the command line and leave with its exit code."""
    from advisor.cli.app import app

    app(prog_name="advisor")


if __name__ == "__main__":
    main()
