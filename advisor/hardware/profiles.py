"""Device profiles on disk: shipped ones (``profiles/*.json``), and what this machine probed or the user wrote.

A user's file of the same name wins over a shipped one. What measured steps say of a datasheet is kept apart from it, in
``fitted/`` beside the user's profiles, and laid over it when it is loaded; without that file it is as it was.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Collection
from pathlib import Path

from advisor.core.device import DeviceProfile
from advisor.core.errors import DeviceError
from advisor.core.serialization import from_dict, read_json, to_json
from advisor.core.store import output_errors, resource_dir, user_data_dir, write_text_atomically
from advisor.hardware.backends import get_backend
from advisor.hardware.backends.base import slug

THIS_DEVICE = "this-device.txt"
FITTED_FOLDER = "fitted"
DRIVER_NAMES = {
    "a100-80gb-pcie": "a100-pcie-80gb",
    "amd-instinct-mi300x": "mi300x",
    "h100-80gb-hbm3": "h100-sxm5-80gb",
    "h100-pcie": "h100-pcie-80gb",
    "h200": "h200-sxm",
    "rtx-6000-ada-generation": "rtx-6000-ada",
}
"""What drivers call a card, as :func:`slug` writes it, where that differs from the id of the shipped profile."""


def profile_names() -> tuple[str, ...]:
    """Ids of all known devices, sorted."""
    return tuple(sorted(_profile_paths()))


def load_profile(name: str, *, fitted: bool = True) -> DeviceProfile:
    """A device profile by id (``"t4"``, ``"rtx-4090"``).

    Spelling variants (``"RTX 4090"``) and the names that drivers report (``"NVIDIA H100 80GB HBM3"``) are understood.

    Args:
        name: Of the device.
        fitted: A datasheet with what the user's measured steps say of it, if there is such a fit; otherwise as it was.

    Raises:
        DeviceError: no such profile (near matches are named), or a damaged file.
    """
    paths = _profile_paths()
    key = name if name in paths else slug(name)
    if key not in paths:
        key = DRIVER_NAMES.get(key, key)
    if key not in paths:
        near = _near_matches(key, paths)
        meant = f"did you mean {' or '.join(near)}? " if near else ""
        raise DeviceError(
            f"the device must be one of the known profiles, but got {name!r}",
            fix=f"{meant}`advisor devices` lists all {len(paths)}, `advisor probe` adds the machine you are on",
        )
    profile = _read(paths[key])
    correction = fitted_path(profile.id)
    if not fitted or profile.basis != "datasheet" or not correction.is_file():
        return profile
    found = _read(correction)
    return dataclasses.replace(
        profile,
        flops_per_s=found.flops_per_s,
        bytes_per_s=found.bytes_per_s,
        overhead_s=found.overhead_s,
        basis=found.basis,
        facts={**profile.facts, **found.facts},
    )


def fitted_path(device_id: str) -> Path:
    """Where the rates are kept that measured steps say a datasheet's card has; removing the file undoes the fit."""
    return user_data_dir("profiles") / FITTED_FOLDER / f"{device_id}.json"


def save_fitted(profile: DeviceProfile) -> Path:
    """Store a fitted datasheet; ``load_profile`` finds it from now on."""
    path = fitted_path(profile.id)
    write_text_atomically(path, to_json(profile))
    return path


def forget_fitted(device_id: str) -> Path:
    """Remove the fit of a datasheet.

    Returns:
        The file that was removed.

    Raises:
        DeviceError: there is none.
        OutputError: it cannot be removed.
    """
    path = fitted_path(device_id)
    if not path.is_file():
        raise DeviceError(
            f"there must be a fit of {device_id} to be forgotten, but there is none at {path}",
            fix="`advisor devices` says which devices are fitted",
        )
    with output_errors(path):
        path.unlink()
    return path


def save_profile(profile: DeviceProfile) -> Path:
    """Store a probed profile in the user data directory and remember it as this machine's device."""
    folder = user_data_dir("profiles")
    path = folder / f"{profile.id}.json"
    write_text_atomically(path, to_json(profile))
    write_text_atomically(folder / THIS_DEVICE, profile.id + "\n")
    return path


def this_device() -> DeviceProfile:
    """The profile that the last probe of this machine saved.

    Raises:
        DeviceError: this machine has not been probed.
    """
    marker = user_data_dir("profiles") / THIS_DEVICE
    if not marker.is_file():
        raise DeviceError(
            "this machine must have been probed, but there is no saved profile of it", fix="run `advisor probe`"
        )
    return load_profile(marker.read_text(encoding="utf-8").strip())


def _near_matches(key: str, names: Collection[str]) -> list[str]:
    """At most four names: first those that contain every word of the key (``"a100"``), else the three spelt most alike.

    Swapped digits (``"rtx-4600"`` for ``"rtx-4060"``) are the usual slip, so the letters without their order count too.
    """
    words = set(key.split("-"))
    containing = sorted(name for name in names if words <= set(name.split("-")))
    if containing:
        return containing[:4]
    alike = difflib.get_close_matches(key, names, n=len(names), cutoff=0.4)
    unordered = {name: difflib.SequenceMatcher(None, sorted(key), sorted(name)).ratio() for name in alike}
    return sorted(alike, key=lambda name: -unordered[name])[:3]


def _read(path: Path) -> DeviceProfile:
    values = read_json(path, what="the device profile", error=DeviceError)
    profile = from_dict(DeviceProfile, values, what=str(path), error=DeviceError)
    try:
        get_backend(profile.type)
    except DeviceError as failure:
        raise DeviceError(
            f"{path} must hold a device", fix=failure.fix, problems=[f"type: {failure.message}"]
        ) from None
    return profile


def _profile_paths() -> dict[str, Path]:
    paths = {path.stem: path for path in resource_dir("profiles").glob("*.json")}
    paths.update({path.stem: path for path in user_data_dir("profiles").glob("*.json")})
    return paths
