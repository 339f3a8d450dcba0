"""Kinds of devices. Everything else asks a back end instead of comparing a device's type.

A package adds a kind of device with one line in its ``pyproject.toml``::

    [project.entry-points."advisor.backends"]
    rocm = "my_package.rocm:RocmBackend"
"""

from __future__ import annotations

import pkgutil
from collections.abc import Iterator
from contextlib import suppress

from advisor.core.device import DeviceProfile
from advisor.core.errors import DeviceError
from advisor.core.registry import Registry
from advisor.hardware.backends.base import Backend

__all__ = [
    "BACKENDS",
    "HOST",
    "Backend",
    "backend_names",
    "backend_of",
    "backend_of_id",
    "backend_on",
    "backends_by_preference",
    "get_backend",
    "is_host",
]

HOST = "cpu"
"""The back end of the machine's own processor, and what torch calls it."""
CARD = "cuda"
"""The back end of a card of which only a product name is known, as a plan has it."""

_BUILT_IN = ("cpu:CpuBackend", "cuda:CudaBackend")


def _built_in() -> Iterator[Backend]:
    for place in _BUILT_IN:
        yield pkgutil.resolve_name(f"advisor.hardware.backends.{place}")()


BACKENDS: Registry[Backend] = Registry("advisor.backends", "kind of device", Backend, _built_in, DeviceError)


def get_backend(name: str) -> Backend:
    """The back end of that name.

    Raises:
        DeviceError: there is none, or another package's entry point is broken.
    """
    return BACKENDS.get(name)


def backend_names() -> tuple[str, ...]:
    """All back ends, built-in ones first. A built-in name cannot be taken over by another package."""
    return BACKENDS.names()


def backend_of(device: DeviceProfile) -> Backend:
    """The back end of a device.

    Raises:
        DeviceError: its type is unknown.
    """
    return get_backend(device.type)


def backends_by_preference() -> tuple[Backend, ...]:
    """Back ends on which something can run, whether or not there is such a device here: cards first, the host last."""
    found = []
    for name in backend_names():
        with suppress(DeviceError):  # a broken package, or a back end that only predicts yet
            backend = get_backend(name)
            _ = backend.runtime
            found.append(backend)
    return tuple(sorted(found, key=lambda backend: backend.is_host))


def backend_on(torch_device: str) -> Backend:
    """The back end whose tensors lie on a device, by torch's name for it (``"cuda:0"``).

    The stand-in that traces run on is nobody's, and counts as a card.
    """
    kind = torch_device.partition(":")[0]
    for name in backend_names():
        with suppress(DeviceError):  # a broken package is not asked about here
            if get_backend(name).torch_device == kind:
                return get_backend(name)
    return get_backend(CARD)


def is_host(torch_device: str) -> bool:
    """Whether torch's name of a device is that of the machine's own processor and memory."""
    return torch_device.partition(":")[0] == HOST


def backend_of_id(device_id: str) -> Backend:
    """The back end of a device of which only the profile id is known: those of hosts begin with ``cpu``."""
    return get_backend(HOST if device_id.startswith(HOST) else CARD)
