"""The process that isolated processes are forked from: it has imported the heavy libraries and done nothing else."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import sys
import threading
import types
from collections.abc import Iterator
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import advisor

PRELOADED = "advisor.measurement.preload"

_starting = threading.Lock()


def context() -> Any:
    """The ``multiprocessing`` context whose server has imported torch and transformers."""
    chosen = multiprocessing.get_context("forkserver")
    with _starting:
        chosen.set_forkserver_preload([PRELOADED])
        with _environment(), _without_main_module():
            forkserver.ensure_running()
    return chosen


@contextlib.contextmanager
def lean_start() -> Iterator[None]:
    """Start a process without its importing the user's main script again.

    The standard library re-imports ``__main__`` in every child so that functions defined there can be found; a script without
    an ``if __name__ == "__main__"`` guard would start itself over. Only importable functions are isolated here.
    """
    with _starting, _without_main_module():
        yield


def server_environment(current: dict[str, str]) -> dict[str, str]:
    """What the server's environment adds; what the user has set stays.

    ``OMP_WAIT_POLICY``: on a busy machine, spinning OpenMP threads cost a factor of 5 to 10. ``USE_HUB_KERNELS``:
    transformers would fetch kernels from a hub. ``PYTORCH_NVML_BASED_CUDA_CHECK``: asking the CUDA runtime whether there is
    a GPU would spoil CUDA for every process forked later. One visible GPU: the run is pinned to it.
    ``PYTHONPATH``: the server must find this very package.
    """
    wanted = {
        "OMP_WAIT_POLICY": "PASSIVE",
        "TOKENIZERS_PARALLELISM": "false",
        "USE_HUB_KERNELS": "0",
        "PYTORCH_NVML_BASED_CUDA_CHECK": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "KINETO_LOG_LEVEL": "5",
    }
    added = {name: value for name, value in wanted.items() if name not in current}
    visible = current.get("CUDA_VISIBLE_DEVICES", "0")
    added["CUDA_VISIBLE_DEVICES"] = visible.split(",")[0]
    added["PYTHONPATH"] = os.pathsep.join(filter(None, [str(Path(advisor.__file__).parents[1]), current.get("PYTHONPATH")]))
    return added


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
