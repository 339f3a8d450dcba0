"""Probe the machine: what it is, what it can do, how fast, each with its reason. The result is a saved
DeviceProfile.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from advisor.core.device import PARTIAL_FACT, DeviceProfile
from advisor.core.errors import AdvisorError, DeviceError, InterruptedByUser
from advisor.hardware.backends import HOST
from advisor.hardware.host_process import process_environment
from advisor.hardware.known import known_findings
from advisor.hardware.probe_results import build_profile
from advisor.hardware.profiles import load_profile, profile_names, save_profile
from advisor.hardware.trial import exit_reason

Progress = Callable[[str, float], None]
"""Called with what is being done and the share that is done, 0 to 1."""

WORKER = (sys.executable, "-m", "advisor.hardware.worker")
QUICK_S, FULL_S = 13.0, 55.0
"""The probing process plans to be done after this, so that with starting up and saving a probe takes 15 or 60 s."""
QUICK_LIMIT_S, FULL_LIMIT_S = 90.0, 240.0
"""A probing process still alive after this is stuck and is ended."""


def probe_device(
    *, quick: bool = False, device: str | None = None, on_progress: Progress | None = None, save: bool = True
) -> DeviceProfile:
    """Probe one device of this machine.

    Args:
        quick: At most about 15 seconds instead of 60; fewer repeats, so wider spreads.
        device: ``"cpu"``, ``"cuda"``, ``"cuda:N"``, or the name of another back end; the first card if there is one,
            else the CPU, when ``None``.
        on_progress: Receives the job's events.
        save: Store the profile and make it this machine's device.

    Raises:
        DeviceError: the device is not there, or probing it died before anything was found.
        InterruptedByUser: Ctrl-C; what was found is stored, marked partial, unless a complete profile is stored
            already.
    """
    report = on_progress or (lambda _text, _share: None)
    findings: list[dict[str, Any]] = []
    start, usual_s = time.monotonic(), QUICK_S if quick else FULL_S
    try:
        report("importing torch", 0.0)
        known = known_findings(device or "", quick=quick)
        for finding in _findings(device or "", quick, start + usual_s, known=known):
            if finding["kind"] == "device" and finding["device"] == HOST:
                findings += known
            findings.append(finding)
            report(_in_words(finding), min(0.99, (time.monotonic() - start) / usual_s))
    except KeyboardInterrupt:
        raise InterruptedByUser("the probe was interrupted", fix=_keep_partial(findings, save)) from None
    profile = build_profile(findings)
    if save:
        profile = _saved(profile)
    report("done", 1.0)
    return profile


def _saved(profile: DeviceProfile) -> DeviceProfile:
    """Store a profile. What stands in the way becomes a warning, because the figures are worth more than the file."""
    if PARTIAL_FACT in profile.facts and _is_complete(profile.id):
        return _warned(profile, f"not saved: the complete profile {profile.id} from before is kept")
    try:
        save_profile(profile)
    except (AdvisorError, OSError) as failure:
        return _warned(profile, f"not saved, so other commands do not know it: {str(failure).splitlines()[0]}")
    return profile


def _warned(profile: DeviceProfile, warning: str) -> DeviceProfile:
    return dataclasses.replace(profile, warnings=(*profile.warnings, warning))


def _is_complete(name: str) -> bool:
    """Whether a complete profile of this id is there, measured on a machine."""
    try:
        known = load_profile(name) if name in profile_names() else None
    except DeviceError:
        return False
    return known is not None and known.basis == "measured" and PARTIAL_FACT not in known.facts


def _keep_partial(findings: list[dict[str, Any]], save: bool) -> str:
    """Store what an interrupted probe found, unless that would replace a complete profile."""
    if not save or not any(finding["kind"] == "device" for finding in findings):
        return "nothing was found yet; run `advisor probe` again"
    try:
        profile = build_profile(findings, partial="interrupted")
    except DeviceError:
        return "too little was found to be kept; run `advisor probe` again"
    if _is_complete(profile.id):
        return f"the complete profile {profile.id} from before is kept; run `advisor probe` again to renew it"
    try:
        path = save_profile(profile)
    except (AdvisorError, OSError) as failure:
        return f"what was found could not be kept: {str(failure).splitlines()[0]}"
    return f"the results so far are kept at {path}, marked partial; run `advisor probe` again to complete it"


def _findings(device: str, quick: bool, until: float, *, known: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Run the probing process, which need not find out what is known, and yield what it finds, line by line.

    Raises:
        DeviceError: it refused the device, or died before the first finding. A death of bitsandbytes, which is tried
            last, is a finding.
    """
    arguments = ["--device", device, "--until", repr(until), *(["--quick"] if quick else [])]
    arguments += ["--known"] if known else []
    chosen = [str(found["value"]) for found in known if found["kind"] == "threads"]
    arguments += ["--threads", *chosen] if chosen else []
    with subprocess.Popen(
        [*WORKER, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        errors="replace",  # libraries write what they like to standard error
        env=worker_environment(),
        start_new_session=True,
    ) as process:
        stop = threading.Timer(QUICK_LIMIT_S if quick else FULL_LIMIT_S, lambda: _end(process))
        stop.start()
        errors: list[str] = []
        drain = threading.Thread(target=lambda: errors.extend(process.stderr or ()), daemon=True)
        drain.start()
        last: dict[str, Any] = {}
        try:
            for line in process.stdout or ():
                finding = _parsed(line)
                if finding is None:
                    continue
                last = finding
                if last["kind"] == "error":
                    usual_fix = "`--device cpu` always works; check the driver with nvidia-smi"
                    raise DeviceError(last["message"], fix=last.get("fix", usual_fix))
                yield last
                if last["kind"] == "done":
                    break
            else:
                process.wait(timeout=1)
        except subprocess.TimeoutExpired:
            pass  # it closed its output and is still taking libraries down
        finally:
            stop.cancel()
            _end(process)
            process.wait()
            drain.join(timeout=1)
    yield from _last_words(last, process.returncode, errors)


def _last_words(last: dict[str, Any], code: int | None, errors: list[str]) -> Iterator[dict[str, Any]]:
    """What it means that the process ended after this finding.

    Raises:
        DeviceError: it ended before the first one.
    """
    if last.get("kind") == "done":
        return
    if last.get("kind") == "trying":
        reason = f"trying it ended the process: {exit_reason(code)}"
        yield {"kind": "fact", "name": last["name"], "value": "no", "reason": reason}
        return
    detail = exit_reason(code) if code is not None and code < 0 else errors[-1].strip() if errors else ""
    detail = detail or exit_reason(code)
    if not last:
        raise DeviceError(
            f"the probing process must start, but it ended: {detail}", fix="check the installation with `pip check`"
        )
    yield {"kind": "broken", "reason": f"probing ended early, {_in_words(last)}: {detail}"}


def _parsed(line: str) -> dict[str, Any] | None:
    """A finding; a line that a dying process cut off is none."""
    try:
        finding: dict[str, Any] = json.loads(line)
    except ValueError:
        return None
    return finding


def _end(process: subprocess.Popen[str]) -> None:
    """End the process and what it started, a compiler for example: they are a group of their own."""
    if process.poll() is not None:
        return
    with contextlib.suppress(OSError):
        if hasattr(os, "killpg"):
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()


def worker_environment() -> dict[str, str]:
    """Environment of a process that measures: this package importable, no hub look-ups, threads as in training."""
    package_parent = str(Path(__file__).resolve().parents[2])
    paths = [package_parent, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    defaults = {**process_environment(), "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    return {**defaults, **os.environ, "PYTHONPATH": os.pathsep.join(dict.fromkeys(paths))}


def _in_words(finding: dict[str, Any]) -> str:
    kind = finding["kind"]
    if kind in ("timing", "rate", "left_out"):
        return f"timing {finding.get('name') or finding['key']}"
    if kind in ("dtype", "kernel", "fact", "trying"):
        return f"trying {finding['name']}"
    return {
        "device": "looking at the device",
        "card": "looking at the GPU",
        "gpu": "asking the driver",
        "awaiting": "trying bitsandbytes",
        "importing": "importing the training libraries",
        "context": "measuring the memory of a bare process",
        "threads": "comparing thread counts",
        "reference": "timing the reference figure",
    }.get(kind, kind)
