"""This process on its host: how its threads wait, what becomes of freed memory, what it imports and holds."""

from __future__ import annotations

import ctypes
import importlib
import os
import sys
from collections.abc import Callable
from pathlib import Path

from advisor.core.code_version import MODEL_LIBRARIES, library_version
from advisor.hardware.host import asked, other_work

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Parameters of mallopt(3)."""
NEVER, LARGEST_BYTES = -1, 2**31 - 1
USERS_OWN = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_MMAP_MAX_", "MALLOC_TOP_PAD_")
"""Settings of the environment (mallopt(3)) that somebody chose on purpose; so are GLIBC_TUNABLES of malloc."""
TUNABLES = "glibc.malloc.tcache_count=0:glibc.malloc.mxfast=0"
"""Freed blocks of a few bytes merge with their neighbours at once instead of waiting in caches for the next request.
They lay scattered between the tensors and kept the gaps that those leave from growing together. Resident sets and
steps, MiniLM on two cores with freed memory kept: LoRA with 16 x 128 tokens 1,250 and 1,100 MiB, 790 and 770 ms; whole
runs of partial fine-tuning with 512 tokens a row 1,710 and 1,360 MiB. Steps of 8 tokens, which consist of small
allocations, take 13 ms both ways."""


TRAINING_IMPORTS = (*MODEL_LIBRARIES, "transformers.trainer", "accelerate", "safetensors.torch")
"""What a training process has imported before it builds its model."""


def process_environment(look: Callable[[], str] = other_work) -> dict[str, str]:
    """What a process that trains or measures must find in its environment; libraries read it when they are loaded.

    OpenMP threads wait for the next operator spinning, unless the machine does anything else: then they must sleep.
    LoRA steps of MiniLM on two cores, 2 x 48 and 8 x 64 tokens, took 65 and 220 ms with spinning threads and 120 and
    290 ms with sleeping ones; beside one busy process 230 and 710 ms with spinning, 85 and 310 ms with sleeping ones.

    Args:
        look: Says what else the machine does; empty when nothing.

    Returns:
        ``GLIBC_TUNABLES`` (see ``TUNABLES``), and ``OMP_WAIT_POLICY`` where the default of the library is not right for
        now; without what the user chose.
    """
    wanted = {"GLIBC_TUNABLES": TUNABLES}
    if "OMP_WAIT_POLICY" not in os.environ and look():
        wanted["OMP_WAIT_POLICY"] = "PASSIVE"
    return {name: value for name, value in wanted.items() if name not in os.environ}


def hand_back_freed_memory() -> None:
    """Give the system what is free now, once: what loading and quantising a model left in between its weights."""
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    trim = getattr(libc, "malloc_trim", None)
    if trim is not None:
        trim(0)


def keep_freed_memory() -> bool:
    """Let the C library keep freed memory for the next allocation instead of handing it back to the system.

    glibc maps tensors above 32 MiB anew each time and trims its heap after every step, and the system clears each page
    again when it is first touched. A LoRA step of MiniLM with 32 x 256 tokens met 716,000 such page faults and took
    7.9 s on two cores; none and 4.9 s with freed memory kept (16 x 256 tokens: 3.1 and 2.3-2.6 s), for a resident set
    that was 4-8 % larger at its peak.

    Returns:
        Whether it does now: not where the C library is another one, nor where the environment says otherwise.
    """
    tunables = os.environ.get("GLIBC_TUNABLES", "").replace(TUNABLES, "")
    if sys.platform != "linux" or "glibc.malloc" in tunables or any(name in os.environ for name in USERS_OWN):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return bool(mallopt(M_MMAP_THRESHOLD, LARGEST_BYTES) and mallopt(M_TRIM_THRESHOLD, NEVER))


def resident_bytes() -> int:
    """Resident set of this process now; 0 where the system does not say."""
    return int(asked(lambda psutil: psutil.Process().memory_info().rss, 0))


def peak_resident_bytes() -> int:
    """Largest resident set of this process so far; a forked process starts at what it inherited.

    Linux keeps it as ``VmHWM`` (proc(5)), Windows as ``peak_wset``, others as ``ru_maxrss`` (getrusage(2)); where none
    of them is there, the resident set of now.
    """
    return max(resident_bytes(), _peak_of_proc() or _peak_of_system())


def _peak_of_proc() -> int:
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), 0)


def _peak_of_system() -> int:
    if peak := asked(lambda psutil: int(psutil.Process().memory_info().peak_wset), 0):
        return peak
    try:
        import resource
    except ImportError:
        return 0
    unit_bytes = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit_bytes


def library_versions() -> str:
    """Versions of what a training process imports, as one line; nothing is imported."""
    packages = sorted({"bitsandbytes", *(module.split(".")[0] for module in TRAINING_IMPORTS)})
    return ", ".join(f"{package} {library_version(package) or 'absent'}" for package in packages)


def import_training_libraries() -> tuple[int, str]:
    """Import what a training process imports.

    Returns:
        Resident bytes of this process afterwards, and how that came about.
    """
    imported, missing = [], []
    for module in TRAINING_IMPORTS:
        try:
            importlib.import_module(module)
            imported.append(module)
        except ImportError:
            missing.append(module)
    without = f", without {', '.join(missing)} (not importable)" if missing else ""
    return resident_bytes(), f"resident set of a fresh process after importing {', '.join(imported)}{without}"
