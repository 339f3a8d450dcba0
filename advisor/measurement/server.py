"""The process that isolated processes are forked from: it has imported the heavy libraries and done nothing else."""

from __future__ import annotations

import contextlib
import functools
import multiprocessing
import os
import sys
import threading
import time
import types
from collections.abc import Iterator
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import advisor
from advisor.hardware.host_process import process_environment

PRELOADED = "advisor.measurement.preload"
SERVER_VARIABLE = "ADVISOR_FORK_SERVER"
"""Set in the server's environment alone."""


RESTART_ATTEMPTS = 20
RESTART_WAIT_S = 0.1

_starting = threading.Lock()


def context() -> Any:
    """The ``multiprocessing`` context whose server has imported torch and transformers."""
    chosen = multiprocessing.get_context("forkserver")
    with _starting:
        chosen.set_forkserver_preload([PRELOADED])
        with _environment(), _without_main_module():
            forkserver.ensure_running()
    return chosen


def start(process: Any) -> None:
    """Start a process of ``context()`` without its importing the user's main script again.

    The standard library re-imports ``__main__`` in every child so that functions defined there can be found; a script
    without an ``if __name__ == "__main__"`` guard would start itself over. Only importable functions are isolated here.

    A server that has just been killed (by the kernel, out of memory) refuses connections for a moment until the
    standard library has noticed and starts another.
    """
    for attempts_left in reversed(range(RESTART_ATTEMPTS)):
        try:
            with _starting, _environment(), _without_main_module():
                process.start()
            return
        except (ConnectionError, EOFError):
            if not attempts_left:
                raise
            time.sleep(RESTART_WAIT_S)


def server_environment(current: dict[str, str]) -> dict[str, str]:
    """What the server's environment adds; what the user has set stays.

    ``process_environment``: how OpenMP threads wait, how freed memory merges. ``USE_HUB_KERNELS``: transformers would
    fetch kernels from a hub. ``PYTORCH_NVML_BASED_CUDA_CHECK``: asking the CUDA runtime whether there is a GPU would
    spoil CUDA for every process forked later. One visible GPU: the run is pinned to it. ``PYTHONPATH``: the server must
    find this very package.
    """
    wanted = {
        **_process_environment(),
        "TOKENIZERS_PARALLELISM": "false",
        "USE_HUB_KERNELS": "0",
        "PYTORCH_NVML_BASED_CUDA_CHECK": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "KINETO_LOG_LEVEL": "5",
        SERVER_VARIABLE: "1",
    }
    added = {name: value for name, value in wanted.items() if name not in current}
    visible = current.get("CUDA_VISIBLE_DEVICES", "0")
    added["CUDA_VISIBLE_DEVICES"] = visible.split(",")[0]
    added["PYTHONPATH"] = os.pathsep.join(
        filter(None, [str(Path(advisor.__file__).parents[1]), current.get("PYTHONPATH")])
    )
    return added


@functools.cache
def _process_environment() -> dict[str, str]:
    """Looked at once, and not for every process that is started: they all have the server's environment."""
    return process_environment()


@contextlib.contextmanager
def _environment() -> Iterator[None]:
    """Libraries read these when they are imported, so they must be there before the server starts."""
    before = dict(os.environ)
    os.environ.update(server_environment(before))
    try:
        yield
    finally:
        for name in set(os.environ) - set(before):
            del os.environ[name]
        os.environ.update(before)


@contextlib.contextmanager
def _without_main_module() -> Iterator[None]:
    original = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = original
