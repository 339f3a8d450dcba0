"""The probing process: tries and times everything on one device and prints each finding as one JSON line.

Run as ``python -m advisor.hardware.worker``. It is a process of its own because it may be interrupted, a broken native
library may kill it, and what it imports must not stay in the caller. Anything that libraries print goes to standard
error.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from typing import Any

from advisor.hardware.context import idle_gpus, import_training_libraries
from advisor.hardware.cpu_process import prepare_process
from advisor.hardware.gpu_state import GpuState
from advisor.hardware.host import Host, inspect_host
from advisor.hardware.sequence import Emit, Probe
from advisor.hardware.trial import start_trial


def main(arguments: list[str] | None = None) -> None:
    """Probe the device named on the command line and print findings until done."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--until", type=float, required=True, help="time.monotonic() at which to be done")
    parser.add_argument("--known", action="store_true", help="an earlier probe has imported and tried the libraries")
    parser.add_argument("--threads", type=int, help="intra-op threads that an earlier probe chose")
    options = parser.parse_args(arguments)
    emit = _take_stdout()
    gpus, refused = idle_gpus() if options.device != "cpu" else ({}, "")
    guess = options.device or ("cuda:0" if gpus else "cpu")
    trial = start_trial(guess) if gpus and guess != "cpu" else None  # beside the imports
    try:
        _probe(options, gpus, refused, (guess, trial), emit)
    finally:
        if trial is not None:
            trial.kill()


def _probe(
    options: argparse.Namespace,
    gpus: dict[str, GpuState],
    refused: str,
    begun: tuple[str, subprocess.Popen[str] | None],
    emit: Emit,
) -> None:
    host = inspect_host()
    device = _choose_device(options.device, host, emit)
    if device is None:
        return
    guess, trial = begun
    capability = None
    if device == "cpu":
        trial = None if options.known else _import_libraries(emit)
    else:
        from advisor.hardware.gpu_probe import describe

        capability = describe(device, gpus, refused, emit)
        if capability is None:
            return
        if trial is None or (device != guess and (device, guess) != ("cuda:0", "cuda")):
            trial = start_trial(device)
    Probe(device, host, options.quick, options.until, capability, options.known, emit, options.threads).run(gpus, trial)
    emit(kind="done")


def _import_libraries(emit: Emit) -> subprocess.Popen[str] | None:
    """Measure what the training libraries hold, and begin to try bitsandbytes unless it came with them."""
    emit(kind="importing")
    held_bytes, reason = import_training_libraries()
    emit(kind="context", bytes=held_bytes, reason=reason)
    return None if "bitsandbytes" in sys.modules else start_trial("cpu")


def _take_stdout() -> Emit:
    """Keep the real standard output for findings and send what libraries print to standard error."""
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def emit(**finding: Any) -> None:
        channel.write(json.dumps(finding) + "\n")
        channel.flush()

    return emit


def _choose_device(wanted: str, host: Host, emit: Emit) -> str | None:
    import torch

    available = torch.cuda.is_available()
    device = wanted or ("cuda:0" if available else "cpu")
    device = "cuda:0" if device == "cuda" else device
    if device != "cpu":
        count = torch.cuda.device_count() if available else 0
        index = device.removeprefix("cuda:")
        if not (device.startswith("cuda:") and index.isdigit() and int(index) < count):
            emit(kind="error", message=f"the device must be cpu or one of {count} CUDA devices, but got {device!r}")
            return None
    prepare_process("cpu" if device == "cpu" else "cuda", host.cores)
    emit(kind="device", device=device, torch=torch.__version__)
    return device


if __name__ == "__main__":
    main(sys.argv[1:])
