"""Device profiles on disk: shipped ones (``profiles/*.json``), and what this machine probed or the user wrote.

A user's file of the same name wins over a shipped one.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection
from pathlib import Path

from advisor.core.device import DeviceProfile
from advisor.core.errors import DeviceError
from advisor.core.serialization import from_dict, read_json, to_json
from advisor.core.store import resource_dir, user_data_dir, write_text_atomically

THIS_DEVICE = "this-device.txt"
DRIVER_NAMES = {
    "a100-80gb-pcie": "a100-pcie-80gb",
    "amd-instinct-mi300x": "mi300x",
    "h100-80gb-hbm3": "h100-sxm5-80gb",
    "h100-pcie": "h100-pcie-80gb",
    "h200": "h200-sxm",
    "rtx-6000-ada-generation": "rtx-6000-ada",
}
"""What drivers call a card, as :func:`slug` writes it, where that differs from the id of the shipped profile."""


def slug(text: str) -> str:
    """A product name as a profile id: lower case, words joined by hyphens.

    Vendor words and trade marks are dropped, so that ``"NVIDIA A100-SXM4-80GB"`` becomes ``"a100-sxm4-80gb"``.
    """
    words = re.split(r"[^a-z0-9]+", re.sub(r"\((r|tm|c)\)|®|™", " ", text.lower()))
    return "-".join(
        word
        for word in words
        if word and word not in ("nvidia", "geforce", "tesla", "corporation", "cpu", "processor", "at")
    )


def profile_names() -> tuple[str, ...]:
    """Ids of all known devices, sorted."""
    return tuple(sorted(_profile_paths()))


def load_profile(name: str) -> DeviceProfile:
    """A device profile by id (``"t4"``, ``"rtx-4090"``).

    Spelling variants (``"RTX 4090"``) and the names that drivers report (``"NVIDIA H100 80GB HBM3"``) are understood.

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
    return from_dict(
        DeviceProfile,
        read_json(paths[key], what="the device profile", error=DeviceError),
        what=str(paths[key]),
        error=DeviceError,
    )


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


def _profile_paths() -> dict[str, Path]:
    paths = {path.stem: path for path in resource_dir("profiles").glob("*.json")}
    paths.update({path.stem: path for path in user_data_dir("profiles").glob("*.json")})
    return paths
