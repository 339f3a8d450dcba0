"""Everything the advisor raises on purpose.

AdvisorError                 any expected failure; never shown as a traceback
├── InputError               bad input from the user (exit code 2)
│   ├── BudgetError          a budget that cannot be parsed or met by anything at all
│   ├── ModelError           a model that cannot be found, read, trusted or used for the task
│   ├── DataError            a data set that cannot be found, read or used for the task
│   ├── PlanError            a plan.json that is corrupt, newer than this version, or inconsistent
│   ├── DeviceError          an unknown device name, or a device that is not usable
│   └── OutputError          an output folder that is occupied, read-only or full
├── UntraceableError         a model or method that the cost model cannot trace (exit code 2); names operator and module
├── NothingFitsError         no plan fits the budget (exit code 3); says what would
└── RunFailed                a run that ended without a result: diverged, out of memory, crashed, out of time (exit 1)
InterruptedByUser            Ctrl-C (exit code 130); what was done so far is kept

A message gives the rule, the value and the fix. Several problems of one input are reported together.
"""

from __future__ import annotations

from collections.abc import Sequence

DEBUG_VARIABLE = "ADVISOR_DEBUG"
"""Set to anything, it shows what is hidden otherwise: tracebacks, and what libraries print."""

EXIT_DONE = 0
EXIT_FAILED = 1
EXIT_BAD_INPUT = 2
EXIT_NOTHING_FITS = 3
EXIT_INTERRUPTED = 130


class AdvisorError(Exception):
    """Base of all expected failures.

    Args:
        message: The rule that was broken and the value that broke it, one sentence.
        fix: What the user can do about it, one sentence or a command.
        problems: Further findings about the same input, reported together.
    """

    exit_code = EXIT_FAILED
    kind = "error"

    def __init__(self, message: str, *, fix: str | None = None, problems: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.message = message
        self.fix = fix
        self.problems = tuple(problems)

    def to_dict(self) -> dict[str, object]:
        """The error as it appears under ``--json``."""
        return {
            "error": self.kind,
            "message": self.message,
            "problems": list(self.problems),
            "fix": self.fix,
            "exit_code": self.exit_code,
        }

    def __str__(self) -> str:
        lines = [self.message, *(f"  - {problem}" for problem in self.problems)]
        if self.fix:
            lines.append(f"Fix: {self.fix}")
        return "\n".join(lines)


class InputError(AdvisorError):
    """Bad input from the user."""

    exit_code = EXIT_BAD_INPUT
    kind = "bad_input"


class BudgetError(InputError):
    """A budget that cannot be parsed, or is not positive."""

    kind = "bad_budget"


class ModelError(InputError):
    """A model that cannot be found, read, trusted, or used for the task."""

    kind = "bad_model"


class DataError(InputError):
    """A data set that cannot be found, read, or used for the task."""

    kind = "bad_data"


class PlanError(InputError):
    """A plan file that is corrupt, newer than this version, or inconsistent."""

    kind = "bad_plan"


class DeviceError(InputError):
    """An unknown device name, or a device that cannot be used."""

    kind = "bad_device"


class OutputError(InputError):
    """An output folder that is occupied, read-only, or full."""

    kind = "bad_output"


class UntraceableError(InputError):
    """A configuration that the cost model cannot trace; the message names operator and module."""

    kind = "untraceable"


class NothingFitsError(AdvisorError):
    """No plan fits the budget; the message names the smallest plan and what it needs."""

    exit_code = EXIT_NOTHING_FITS
    kind = "nothing_fits"


class RunFailed(AdvisorError):
    """A run that ended without a result (diverged, out of memory, crashed, out of time)."""

    kind = "run_failed"


class InterruptedByUser(AdvisorError):
    """Ctrl-C. What was done so far is on disk; the message says how to resume."""

    exit_code = EXIT_INTERRUPTED
    kind = "interrupted"
