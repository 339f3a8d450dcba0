"""Imported once by the server that isolated processes are forked from. Importing must start no thread and touch no GPU."""

from __future__ import annotations

import contextlib

from advisor.training.hub import forbid_kernel_downloads

forbid_kernel_downloads()

with contextlib.suppress(ImportError):
    import advisor.measurement.run
    import advisor.measurement.steps
    import advisor.training.trainer  # noqa: F401
