"""Probe the machine: what it is, what it can do, how fast, each with its reason. The result is a saved
DeviceProfile.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from advisor.core.device import DeviceProfile
from advisor.core.errors import DeviceError, InterruptedByUser
from advisor.hardware.findings import build_profile
from advisor.hardware.profiles import load_profile, profile_names, save_profile

Progress = Callable[[str, float], None]
"""Called with what is being done and the share that is done, 0 to 1."""

QUICK_LIMIT_S, FULL_LIMIT_S = 90.0, 240.0
"""A probing process still alive after this is stuck (a quick probe normally takes 15 s, a full one 60 s) and is
ended."""
EXPECTED_FINDINGS = 40


def probe_device(
    *, quick: bool = False, device: str | None = None, on_progress: Progress | None = None, save: bool = True
) -> DeviceProfile:
    """Probe one device of this machine.

    Args:
        quick: At most about 15 seconds instead of 60; fewer repeats, so wider spreads.
        device: ``"cpu"``, ``"cuda"`` or ``"cuda:N"``; the first CUDA device if there is one, else the CPU, when
            ``None``.
        on_progress: Told what is being done.
        save: Store the profile and make it this machine's device.

    Raises:
        DeviceError: the device is not there, or probing it died before anything was found.
        InterruptedByUser: Ctrl-C; what was found is stored, marked partial, unless a complete profile is stored
            already.
    """
    report = on_progress or (lambda _text, _share: None)
    report("importing the training libraries", 0.0)
    findings: list[dict[str, Any]] = []
    try:
        for finding in _findings(device or "", quick):
            findings.append(finding)
            report(_in_words(finding), min(0.99, len(findings) / EXPECTED_FINDINGS))
    except KeyboardInterrupt:
        raise InterruptedByUser("the probe was interrupted", fix=_keep_partial(findings, save)) from None
    profile = build_profile(findings)
    if save:
        save_profile(profile)
    report("done", 1.0)
    return profile


def _keep_partial(findings: list[dict[str, Any]], save: bool) -> str:
    """Store what an interrupted probe found, unless that would replace a complete profile."""
    if not save or not any(finding["kind"] == "device" for finding in findings):
        return "nothing was found yet; run `advisor probe` again"
    profile = build_profile(findings, partial="interrupted")
    if profile.id in profile_names() and "partial" not in load_profile(profile.id).facts:
        return f"the complete profile {profile.id} from before is kept; run `advisor probe` again to renew it"
    return (
        f"what was found is kept at {save_profile(profile)}, marked partial; run `advisor probe` again to complete it"
    )


def _findings(device: str, quick: bool) -> Iterator[dict[str, Any]]:
    """Run the probing process and yield what it finds, line by line.

    Raises:
        DeviceError: it refused the device, or died before the first finding. A death during the last, riskiest trial is
            a finding.
    """
    command = [sys.executable, "-m", "advisor.hardware.worker", "--device", device, *(["--quick"] if quick else [])]
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=worker_environment(),
        start_new_session=True,
    ) as process:
        stop = threading.Timer(QUICK_LIMIT_S if quick else FULL_LIMIT_S, process.kill)
        stop.start()
        errors: list[str] = []
        drain = threading.Thread(target=lambda: errors.extend(process.stderr or ()), daemon=True)
        drain.start()
        last: dict[str, Any] = {}
        try:
            for line in process.stdout or ():
                last = json.loads(line)
                if last["kind"] == "error":
                    raise DeviceError(
                        last["message"], fix="`--device cpu` always works; check the driver with nvidia-smi"
                    )
                yield last
        finally:
            stop.cancel()
            if last.get("kind") != "done":
                process.kill()
            process.wait()
            drain.join(timeout=1)
    if last.get("kind") == "trying":
        yield {
            "kind": "fact",
            "name": last["name"],
            "value": "no",
            "reason": f"trying it ended the process: {_exit_reason(process.returncode)}",
        }
    elif last.get("kind") != "done":
        detail = errors[-1].strip() if errors else _exit_reason(process.returncode)
        if not last:
            raise DeviceError(
                f"the probing process must start, but it ended: {detail}", fix="check the installation with `pip check`"
            )
        yield {"kind": "broken", "reason": f"probing ended early: {detail}"}


def worker_environment() -> dict[str, str]:
    """Environment of a process that measures: this package importable, no hub look-ups, idle threads asleep.

    Spinning OpenMP threads cost 5-10 times on a machine that does anything else, so measuring and training both sleep
    instead.
    """
    package_parent = str(Path(__file__).resolve().parents[2])
    paths = [package_parent, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    defaults = {"OMP_WAIT_POLICY": "PASSIVE", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    return {**defaults, **os.environ, "PYTHONPATH": os.pathsep.join(dict.fromkeys(paths))}


def _exit_reason(code: int | None) -> str:
    if code is not None and code < 0:
        return f"signal {signal.Signals(-code).name}"
    return f"exit code {code}"


def _in_words(finding: dict[str, Any]) -> str:
    kind = finding["kind"]
    if kind == "rate":
        return f"timing {finding['key']}: {finding['label']}"
    if kind in ("dtype", "kernel", "trying"):
        return f"trying {finding['name']}"
    return {
        "device": "looking at the device",
        "cuda": "looking at the GPU",
        "context": "measuring the memory of a bare process",
    }.get(kind, kind)
