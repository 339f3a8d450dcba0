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
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from advisor.core.device import PARTIAL_FACT, DeviceProfile
from advisor.core.errors import AdvisorError, DeviceError, InterruptedByUser
from advisor.hardware.backends import HOST
from advisor.hardware.backends.cpu import cpu_id
from advisor.hardware.host import inspect_host
from advisor.hardware.host_process import library_versions, process_environment
from advisor.hardware.probe_results import build_profile
from advisor.hardware.profiles import load_profile, profile_names, save_profile
from advisor.hardware.threads import COMPARED
from advisor.hardware.trials import exit_reason

Progress = Callable[[str, float], None]
"""Called with what is being done and the share that is done, 0 to 1."""

WORKER = (sys.executable, "-m", "advisor.hardware.worker")
KNOWN = "; known from an earlier probe with the same libraries"
"""Behind the reason of what an earlier probe of this machine found, and only other library versions could change."""
QUICK_S, FULL_S = 13.0, 55.0
"""The probing process plans to be done after this, so that with starting up and saving a probe takes 15 or 60 s."""
QUICK_LIMIT_S, FULL_LIMIT_S = 90.0, 240.0
"""A probing process still alive after this is stuck and is ended."""


def probe_device(
    *,
    quick: bool = False,
    device: str | None = None,
    on_progress: Progress | None = None,
    save: bool = True,
    worker: Sequence[str] = WORKER,
    limit_s: float | None = None,
) -> DeviceProfile:
    """Probe one device of this machine.

    Args:
        quick: At most about 15 seconds instead of 60; fewer repeats, so wider spreads.
        device: ``"cpu"``, ``"cuda"``, ``"cuda:N"``, or the name of another back end; the first card if there is one,
            else the CPU, when ``None``.
        on_progress: Receives the job's events.
        save: Store the profile and make it this machine's device.
        worker: Command of the probing process; what it prints is in ``advisor.hardware.worker``.
        limit_s: After this it is ended; ``QUICK_LIMIT_S`` or ``FULL_LIMIT_S`` when ``None``.

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
        arguments = _arguments(device or "", quick, start + usual_s, known)
        for finding in _findings([*worker, *arguments], limit_s or (QUICK_LIMIT_S if quick else FULL_LIMIT_S)):
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


def known_findings(device: str, *, quick: bool) -> list[dict[str, Any]]:
    """Findings that spare a quick probe of a CPU the imports of the training libraries and of bitsandbytes (5 to 10 s).

    The thread count that was chosen by comparing stays, too: a few quick rounds in a slow moment of a shared machine
    would overturn it, and with it every calibration.

    Args:
        device: As the user named it.
        quick: A full probe finds everything out anew.

    Returns:
        ``context``, ``threads`` and ``fact`` findings; nothing when there is no such probe.
    """
    if not quick or device not in ("", HOST):
        return []
    try:
        profile = load_profile(cpu_id(inspect_host()))
    except DeviceError:
        return []
    same = profile.facts.get("libraries", "").startswith(f"{library_versions()} (")
    facts = {name: fact for name, fact in profile.facts.items() if name.startswith("bitsandbytes")}
    if not same or not facts or not profile.context_bytes or profile.basis != "measured":
        return []
    reason = profile.sources.get("context_bytes", "").removesuffix(KNOWN)
    findings = [{"kind": "context", "bytes": profile.context_bytes, "reason": reason + KNOWN}]
    chosen = profile.sources.get("num_threads", "").removesuffix(KNOWN)
    if profile.num_threads is not None and chosen.startswith(COMPARED):
        findings.append({"kind": "threads", "value": profile.num_threads, "reason": chosen + KNOWN})
    for name, fact in facts.items():
        value, _, reason = fact.partition(" (")
        reason = reason.removesuffix(")").removesuffix(KNOWN)
        findings.append({"kind": "fact", "name": name, "value": value, "reason": reason + KNOWN})
    return findings


def _saved(profile: DeviceProfile) -> DeviceProfile:
    """Store a profile. What stands in the way becomes a warning, because the figures are worth more than the file."""
    if PARTIAL_FACT in profile.facts and _is_complete(profile.id):
        problem = f"not saved: the complete profile {profile.id} from before is kept"
    else:
        try:
            save_profile(profile)
            return profile
        except (AdvisorError, OSError) as failure:
            problem = f"not saved, so other commands do not know it: {str(failure).splitlines()[0]}"
    return dataclasses.replace(profile, warnings=(*profile.warnings, problem))


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


def _arguments(device: str, quick: bool, until: float, known: list[dict[str, Any]]) -> list[str]:
    """Of the probing process, which need not find out what is known."""
    chosen = [str(found["value"]) for found in known if found["kind"] == "threads"]
    return [
        *("--device", device, "--until", repr(until)),
        *(["--quick"] if quick else []),
        *(["--known"] if known else []),
        *(["--threads", *chosen] if chosen else []),
    ]


def _findings(command: Sequence[str], limit_s: float) -> Iterator[dict[str, Any]]:
    """Run the probing process and yield what it finds, line by line.

    Raises:
        DeviceError: it refused the device, or died before the first finding. A death of bitsandbytes, which is tried
            last, is a finding.
    """
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        errors="replace",  # libraries write what they like to standard error
        env=worker_environment(),
        start_new_session=True,
    ) as process:
        stop = threading.Timer(limit_s, lambda: _end(process))
        stop.start()
        errors: list[str] = []
        drain = threading.Thread(target=lambda: errors.extend(process.stderr or ()), daemon=True)
        drain.start()
        last: dict[str, Any] = {}
        try:
            for line in process.stdout or ():
                try:
                    last = json.loads(line)
                except ValueError:  # a line that a dying process cut off
                    continue
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
