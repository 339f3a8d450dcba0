"""bitsandbytes tried in a process of its own, beside the imports of the probing one.

A broken native library ends only this process, and importing it costs no time when a second core is free.
Run as ``python -m advisor.hardware.trial DEVICE DTYPE``; prints one JSON line per finding.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from typing import Any

from advisor.hardware.kernels import try_bitsandbytes

LIMIT_S = 25.0
"""Importing torch and bitsandbytes from a cold disk takes about ten seconds."""


def start_trial(device: str, dtype: str) -> subprocess.Popen[str]:
    """Begin trying bitsandbytes on a device, with products in this data type."""
    command = [sys.executable, "-m", "advisor.hardware.trial", device, dtype]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)


def finish_trial(trial: subprocess.Popen[str], limit_s: float = LIMIT_S) -> list[dict[str, Any]]:
    """Wait for the answers; an end by a signal or by the limit is one.

    Returns:
        ``fact`` findings.
    """
    try:
        output, _ = trial.communicate(timeout=limit_s)
        ended = "" if trial.returncode == 0 else f"trying it ended the process: {exit_reason(trial.returncode)}"
    except subprocess.TimeoutExpired:
        trial.kill()
        output, _ = trial.communicate()
        ended = f"trying it took longer than {limit_s:.0f} s"
    findings = [json.loads(line) for line in output.splitlines() if line.startswith("{") and line.endswith("}")]
    if ended:
        findings.append({"kind": "fact", "name": "bitsandbytes", "value": "no", "reason": ended})
    return findings


def exit_reason(code: int | None) -> str:
    """How a process ended, in words."""
    return f"signal {signal.Signals(-code).name}" if code is not None and code < 0 else f"exit code {code}"


def main(device: str, dtype: str) -> None:
    """Try everything and print what happened."""
    for name, found in try_bitsandbytes(device, dtype):
        print(json.dumps({"kind": "fact", "name": name, "value": found.value, "reason": found.reason}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:3])
