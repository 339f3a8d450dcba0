"""Kinds of devices. Everything else asks a back end instead of comparing a device's type."""

from advisor.hardware.backends.base import Backend
from advisor.hardware.backends.registry import (
    HOST,
    backend_names,
    backend_of,
    backend_of_id,
    backend_on,
    backends_by_preference,
    get_backend,
    is_host,
)

__all__ = [
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
