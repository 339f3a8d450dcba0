"""Facts about this machine that are gathered within seconds; ``doctor.py`` judges them.

Whatever can hang (a driver, a network folder, the hub, an import) is asked in a thread or a process that is left behind
when its time is up. Run as ``python -m advisor.hardware.inspection``, the module imports torch, tries the device that
training would use, and prints one JSON line per finding.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from advisor.core.code_version import library_version
from advisor.core.errors import AdvisorError, DeviceError
from advisor.core.store import user_data_dir
from advisor.hardware.backends import HOST, backends_by_preference, get_backend
from advisor.hardware.backends.contact import DriverView, TorchView, torch_build
from advisor.hardware.host import busy_load, inspect_host, other_work
from advisor.hardware.trials import (
    DTYPES,
    collect,
    first_line,
    try_attention_kernel,
    try_bitsandbytes,
    try_native_dtype,
)

T = TypeVar("T")
DISTRIBUTION = "finetune-advisor"
WHOLE_S = 7.5
"""For everything, so that a command with Python's own start stays within ten seconds."""
ANSWER_S = 2.0
"""For the driver, for a folder and for the hub, each."""
OFFLINE_VARIABLES = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
ONLINE_VALUES = ("", "0", "false", "no", "off")


@dataclass(frozen=True)
class Folder:
    """A folder that is written to.

    Attributes:
        purpose: What goes there.
        path: Where it is.
        free_bytes: On its disk; ``None`` where the system does not answer.
        writable: Whether this user may write there.
    """

    purpose: str
    path: Path
    free_bytes: int | None
    writable: bool = True


@dataclass(frozen=True)
class Hub:
    """Whether models can be downloaded.

    Attributes:
        address: Of the hub.
        offline_by: The setting that forbids it; empty where none does.
        failure: Why it does not answer; empty where it does, or was not asked.
    """

    address: str
    offline_by: str = ""
    failure: str = ""


@dataclass(frozen=True)
class Trial:
    """What torch, its kernels and bitsandbytes did when they were tried.

    Attributes:
        backend: Name of the back end of the device that training would use; empty where torch did not get so far.
        facts: ``"yes"``, ``"no"`` or ``"unknown"``, and why, by what was tried.
        ended: Why not everything was tried; empty when it was.
        counts: How many devices torch can use, by back end.
        architectures: For which torch has kernels, by back end.
    """

    backend: str = ""
    facts: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    ended: str = ""
    counts: Mapping[str, int] = field(default_factory=dict)
    architectures: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Machine:
    """What is known of a machine.

    Attributes:
        memory_bytes, available_bytes: RAM that this process may use, and what of it is free.
        busy: What keeps the processor from being free, in words; empty when it is.
        folders: Those that are written to.
        torch_version: Installed version of torch; empty without it.
        packages: Installed version of every required package (empty: not installed), and of flash-attn.
        required: Requirements of the advisor, as its metadata state them.
        drivers: What drivers say, by back end.
        torch_views: What torch was built for, by back end.
        trial: What was tried.
        profile_name, profile_type: Device of the last probe, and its back end; empty when there was none.
        profile_facts: What that probe tried.
        hub: Whether models can be downloaded.
    """

    memory_bytes: int
    available_bytes: int
    busy: str
    folders: tuple[Folder, ...]
    torch_version: str
    packages: Mapping[str, str]
    required: tuple[str, ...]
    drivers: Mapping[str, DriverView]
    torch_views: Mapping[str, TorchView]
    trial: Trial
    hub: Hub
    profile_name: str = ""
    profile_type: str = ""
    profile_facts: Mapping[str, str] = field(default_factory=dict)


def inspect_machine(output: Path, *, limit_s: float = WHOLE_S) -> Machine:
    """Look at this machine.

    Args:
        output: Folder in which results would be stored.
        limit_s: After this, what has not been tried is left out.
    """
    from advisor.hardware.profiles import this_device

    begin = time.monotonic()
    host, busy = inspect_host(), busy_load() or other_work()
    trial = _start_trial()
    folders = _folders(output)
    hub = asking(lambda: hub_state(os.environ))
    cards = [backend for backend in backends_by_preference() if not backend.is_host]
    drivers = {backend.name: asking(backend.driver_view) for backend in cards}
    sizes = [asking(partial(look_at, purpose, path)) for purpose, path in folders]
    required = tuple(_requirements())
    profile = None
    with suppress(AdvisorError):
        profile = this_device()
    silent = DriverView(refused=f"the driver does not answer within {ANSWER_S:g} s")
    found = {name: answer() or silent for name, answer in drivers.items()}
    looked = [size() or Folder(*folder, None) for size, folder in zip(sizes, folders, strict=True)]
    reached = hub() or Hub(hub_address(os.environ), failure=f"no answer within {ANSWER_S:g} s")
    tried = read_trial(*collect(trial, max(0.5, begin + limit_s - time.monotonic())))
    return Machine(
        memory_bytes=host.memory_bytes,
        available_bytes=host.available_bytes,
        busy=busy,
        folders=tuple(looked),
        torch_version=str(torch_build().get("__version__", "")),
        packages={name: library_version(name) for name in [*map(package_name, required), "flash-attn"]},
        required=required,
        drivers=found,
        torch_views={
            backend.name: replace(
                backend.torch_view(),
                count=tried.counts.get(backend.name),
                architectures=tried.architectures.get(backend.name, ()),
            )
            for backend in cards
        },
        trial=tried,
        hub=reached,
        profile_name="" if profile is None else profile.name,
        profile_type="" if profile is None else profile.type,
        profile_facts={} if profile is None else profile.facts,
    )


def asking(question: Callable[[], T], limit_s: float = ANSWER_S) -> Callable[[], T | None]:
    """Ask in a thread, which is left behind when its time is up.

    Args:
        question: What is asked.
        limit_s: From now on.

    Returns:
        Waits for the answer; ``None`` when there is none in time, or when asking failed.
    """
    answers: list[T] = []

    def ask() -> None:
        with suppress(Exception):  # whatever it is, there is no answer
            answers.append(question())

    until = time.monotonic() + limit_s
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()

    def answer() -> T | None:
        thread.join(max(0.0, until - time.monotonic()))
        return answers[0] if answers else None

    return answer


def package_name(requirement: str) -> str:
    """``"torch>=2.11"`` without what it says of versions."""
    from packaging.requirements import Requirement

    return Requirement(requirement).name


def _requirements() -> list[str]:
    """The advisor's own requirements without those of extras; none where it is not installed as a package."""
    from packaging.requirements import Requirement

    try:
        stated = importlib.metadata.requires(DISTRIBUTION) or []
    except importlib.metadata.PackageNotFoundError:
        return []
    requirements = [Requirement(text) for text in stated]
    return [str(one) for one in requirements if one.marker is None or one.marker.evaluate({"extra": ""})]


def _folders(output: Path) -> list[tuple[str, Path]]:
    from huggingface_hub import constants

    found = [("output folder", output), ("model cache", Path(constants.HF_HUB_CACHE))]
    try:
        found.append(("advisor's data", user_data_dir()))
    except AdvisorError:
        found.append(("advisor's data", Path(os.environ.get("ADVISOR_HOME") or Path.home())))
    return [*found, ("temporary files", Path(tempfile.gettempdir()))]


def look_at(purpose: str, path: Path) -> Folder:
    """Free bytes where a folder is, or where it would be made.

    Raises:
        OSError: the system does not say.
    """
    place = path.expanduser().absolute()
    there = next(parent for parent in (place, *place.parents) if parent.exists())
    return Folder(purpose, path, shutil.disk_usage(there).free, os.access(there, os.W_OK))


def hub_address(environment: Mapping[str, str]) -> str:
    """Of the hub that models are downloaded from."""
    return environment.get("HF_ENDPOINT") or "https://huggingface.co"


def hub_state(environment: Mapping[str, str], head: Callable[[str], object] | None = None) -> Hub:
    """Whether the hub answers; it is not asked where a setting forbids it.

    Args:
        environment: Variables of the process.
        head: Asks an address and raises when it does not answer; the hub's own client when ``None``.
    """
    address = hub_address(environment)
    for name in OFFLINE_VARIABLES:
        if environment.get(name, "").strip().lower() not in ONLINE_VALUES:
            return Hub(address, offline_by=f"{name}={environment[name]}")
    try:
        (head or _head)(address)
    except Exception as failure:  # whatever the network, a proxy or a certificate has to say
        return Hub(address, failure=first_line(failure))
    return Hub(address)


def _head(address: str) -> object:
    from huggingface_hub.utils import get_session

    return get_session().head(address, timeout=ANSWER_S)


def _start_trial() -> subprocess.Popen[str]:
    from advisor.hardware.probe import worker_environment

    command = [sys.executable, "-m", "advisor.hardware.inspection"]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=worker_environment()
    )


def read_trial(lines: Sequence[dict[str, Any]], ended: str, crashed: bool) -> Trial:
    """What the trying process printed, as :func:`~advisor.hardware.trials.collect` returns it.

    Args:
        lines: Its findings.
        ended: Why it ended early; empty when it did not.
        crashed: It ended by itself.
    """
    trying = next((line["name"] for line in reversed(lines) if line["kind"] == "trying"), "torch")
    facts = {line["name"]: (line["value"], line["reason"]) for line in lines if line["kind"] == "fact"}
    if ended:
        facts.setdefault(trying, ("no" if crashed else "unknown", ended))
    devices = [line for line in lines if line["kind"] == "devices"]
    return Trial(
        backend=next((line["name"] for line in lines if line["kind"] == "device"), ""),
        facts=facts,
        ended=f"{trying}: {ended}" if ended else "",
        counts={line["name"]: line["count"] for line in devices},
        architectures={line["name"]: tuple(line["architectures"]) for line in devices},
    )


def _emit(**finding: Any) -> None:
    print(json.dumps(finding), flush=True)


def main() -> None:
    """Try torch, the device, its data types, the flash kernel and bitsandbytes, cheapest first."""
    _emit(kind="trying", name="torch")
    try:
        import torch
    except Exception as failure:  # a broken installation says so in many ways
        _emit(kind="fact", name="torch", value="no", reason=f"{type(failure).__name__}: {first_line(failure)}")
        return
    _emit(kind="fact", name="torch", value="yes", reason=f"imported: {torch.__version__}")
    chosen = get_backend(HOST)
    for backend in reversed(backends_by_preference()):
        count = 0
        with suppress(DeviceError, RuntimeError):
            count = backend.runtime.count()
        _emit(kind="devices", name=backend.name, count=count, architectures=backend.architectures() if count else ())
        chosen = backend if count else chosen
    _emit(kind="device", name=chosen.name)
    device, usable = chosen.torch_device, "float32"
    for dtype in DTYPES:
        _emit(kind="trying", name=f"dtype {dtype}")
        found = try_native_dtype(device, dtype, chosen.probing.emulated)
        _emit(kind="fact", name=f"dtype {dtype}", value=found.value, reason=found.reason)
        usable = dtype if found.value == "yes" and not chosen.is_host else usable
    _emit(kind="trying", name="attention flash")
    found = try_attention_kernel(device, "flash", usable)
    _emit(kind="fact", name="attention flash", value=found.value, reason=found.reason)
    _emit(kind="trying", name="bitsandbytes")
    for name, found in try_bitsandbytes(device, usable):
        _emit(kind="fact", name=name, value=found.value, reason=found.reason)


if __name__ == "__main__":
    main()
