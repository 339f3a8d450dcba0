"""Imported once by the server that isolated processes are forked from; starts no thread and touches no GPU."""

from __future__ import annotations

import atexit
import contextlib
import os
import signal

# Ctrl-C reaches the server as well: what it stops is the client's to say, and the server goes with its clients.
_INTERRUPT = signal.signal(signal.SIGINT, signal.SIG_IGN)

from advisor.measurement.server import SERVER_VARIABLE  # noqa: E402
from advisor.measurement.sleeping_gpu import sleeping_gpu  # noqa: E402
from advisor.training.hub import forbid_kernel_downloads  # noqa: E402

forbid_kernel_downloads()

with contextlib.suppress(ImportError), sleeping_gpu():
    import advisor.measurement.run
    import advisor.measurement.steps
    import advisor.training.trainer  # noqa: F401

signal.signal(signal.SIGINT, _INTERRUPT)

if SERVER_VARIABLE in os.environ:
    # Registered last, so it runs first: the server leaves at once when its clients are gone, instead of spending
    # seconds on taking torch apart.
    atexit.register(os._exit, 0)
