"""Where demo assets lie, and how one gets there.

They lie in ``$ADVISOR_DEMO_DIR``, else ``./.demo``, else the user data directory: models unpacked in ``models/<name>``,
data as ``data/<name>/rows.jsonl``.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path

from advisor.core.errors import DataError
from advisor.core.store import ensure_writable_dir, user_data_dir, write_text_atomically
from advisor.training.data.asset_catalog import Asset, find_asset
from advisor.training.data.asset_download import ensure_artifact, require_free_space
from advisor.training.data.asset_unpack import ROWS_FILE, unpack

DEMO_VARIABLE = "ADVISOR_DEMO_DIR"
MANIFEST = "asset.json"
LAYOUT_VERSION = 1
"""Raised when unpacking changes, so that older folders are made again."""


def demo_dir() -> Path:
    """Where demo assets are looked for."""
    if override := os.environ.get(DEMO_VARIABLE):
        return Path(override).expanduser()
    local = Path(".demo")
    return local.resolve() if local.is_dir() else user_data_dir("demo")


def asset_folder(asset: Asset, base: Path) -> Path:
    """Where an asset lies below a demo folder."""
    return base / ("models" if asset.kind == "model" else "data") / asset.name


def is_present(asset: Asset, base: Path) -> bool:
    """Whether the asset was unpacked completely, from the pinned artifact, by this version of the layout."""
    try:
        manifest = json.loads((asset_folder(asset, base) / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(manifest, dict) and _identity(asset).items() <= manifest.items()


def asset_path(name: str) -> Path:
    """The unpacked model folder, or the ``rows.jsonl`` of a demo data set.

    Raises:
        DataError: unknown name, or not fetched; the message has the command.
    """
    asset = find_asset(name)
    base = demo_dir()
    if not is_present(asset, base):
        raise DataError(
            f"the demo {asset.kind} {name!r} must be fetched before it is used, but it is not in {base}",
            fix=f"python -m advisor.training.data.assets fetch {name} --to {base}",
        )
    folder = asset_folder(asset, base)
    return folder if asset.kind == "model" else folder / ROWS_FILE


def fetch(asset: Asset, base: Path) -> bool:
    """Download, verify and unpack one asset below ``base``; all of it or nothing.

    Returns:
        Whether anything had to be done.

    Raises:
        DataError: it cannot be downloaded, or has another hash.
        OutputError: the disk is full or read-only.
    """
    if is_present(asset, base):
        return False
    cache = base / "downloads"
    ensure_writable_dir(cache)
    artifact = ensure_artifact(asset.artifact, cache)
    require_free_space(base, asset.unpacked_bytes)
    folder = asset_folder(asset, base)
    ensure_writable_dir(folder.parent)
    with tempfile.TemporaryDirectory(prefix=f".{asset.name}-", dir=folder.parent) as scratch:
        unpacked = Path(scratch) / asset.name
        unpacked.mkdir()
        unpack(asset, artifact, unpacked)
        # Written last: a folder without it counts as absent.
        write_text_atomically(unpacked / MANIFEST, json.dumps(_identity(asset), indent=2) + "\n")
        if folder.exists():
            shutil.rmtree(folder)
        os.replace(unpacked, folder)
    return True


def _identity(asset: Asset) -> dict[str, object]:
    artifact = asset.artifact
    return {
        "name": asset.name,
        "package": artifact.package,
        "version": artifact.version,
        "sha256": artifact.sha256,
        "licence": artifact.licence,
        "layout": LAYOUT_VERSION,
    }
