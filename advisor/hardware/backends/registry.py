"""Type of a device -> back end. Built-in ones and the entry points of other packages go the same way.

A package adds a kind of device with one line in its ``pyproject.toml``::

    [project.entry-points."advisor.backends"]
    rocm = "my_package.rocm:RocmBackend"
"""

from __future__ import annotations

from contextlib import suppress
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING

from advisor.core.device import DeviceProfile
from advisor.core.errors import DeviceError
from advisor.hardware.backends.base import Backend

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

ENTRY_POINT_GROUP = "advisor.backends"
HOST = "cpu"
"""The back end of the machine's own processor, and what torch calls it."""
CARD = "cuda"
"""The back end of a card of which only a product name is known, as a plan has it."""

_BUILT_IN = {"cpu": "cpu:CpuBackend", "cuda": "cuda:CudaBackend"}


@cache
def get_backend(name: str) -> Backend:
    """The back end of that name.

    Raises:
        DeviceError: there is none, or another package's entry point is broken.
    """
    if name in _BUILT_IN:
        module, _, member = _BUILT_IN[name].partition(":")
        found: Backend = getattr(import_module(f"advisor.hardware.backends.{module}"), member)()
        return found
    points = _entry_points()
    if name not in points:
        raise DeviceError(
            f"the type of a device must be one of {', '.join(backend_names())}, but got {name!r}",
            fix='install a package that adds it (entry point group "advisor.backends")',
        )
    point = points[name]
    try:
        backend = point.load()()
    except (ImportError, AttributeError, TypeError) as failure:
        raise DeviceError(f"the back end {name!r} could not be loaded from {point.value}: {failure}") from failure
    if not isinstance(backend, Backend) or backend.name != name:
        raise DeviceError(
            f"the back end {name!r} must be a subclass of advisor.hardware.backends.Backend of that name, "
            f"but {point.value} is not"
        )
    return backend


def backend_of(device: DeviceProfile) -> Backend:
    """The back end of a device.

    Raises:
        DeviceError: its type is unknown.
    """
    return get_backend(device.type)


def backend_names() -> tuple[str, ...]:
    """All back ends, built-in ones first. A built-in name cannot be taken over by another package."""
    return tuple(dict.fromkeys((*_BUILT_IN, *_entry_points())))


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
    return _by_torch(torch_device.partition(":")[0])


@cache
def _by_torch(kind: str) -> Backend:
    for name in (*_BUILT_IN, *_entry_points()):
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


@cache
def _entry_points() -> dict[str, EntryPoint]:
    from importlib.metadata import entry_points

    return {point.name: point for point in entry_points(group=ENTRY_POINT_GROUP)}
