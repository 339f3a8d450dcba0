"""Whether a local model is still the one that a plan was made for: hashes of what its files hold."""

from __future__ import annotations

import hashlib
from pathlib import Path

from advisor.core.model import ModelSpec, SourceKind

PARTS: dict[str, tuple[str, ...]] = {
    "config.json": ("config.json",),
    "weights": ("*.safetensors", "*.bin", "*.pt", "*.pth", "*.ckpt"),
    "tokenizer": ("tokenizer*", "vocab*", "merges.txt", "added_tokens.json", "special_tokens_map.json", "*.model"),
    "chat template": ("chat_template*",),
    "Python code": ("*.py",),
}
"""Files of a model's folder that decide what is trained, by what messages call them."""

BLOCK_BYTES, BLOCKS = 1 << 16, 256
"""Of a file that is larger, this many blocks at even distances are hashed, the first and the last among them: 16 MiB of
each file. Replaced, pruned, merged, cast or zeroed weights change them all; one edited tensor may lie in between."""


def fingerprints(source: str, kind: SourceKind) -> dict[str, str]:
    """SHA-256 of each part of a model on disk that is there; none of a model on the hub or of a bare configuration."""
    path = Path(source).expanduser()
    if kind == "gguf":
        return {"weights": _digest([path])}
    if kind != "folder":
        return {}
    found = {part: sorted({f for name in names for f in path.glob(name)}) for part, names in PARTS.items()}
    return {part: _digest(files) for part, files in found.items() if files}


def changed_parts(spec: ModelSpec) -> list[str]:
    """What is not as it was when the model was inspected; nothing where that is not known (older plans, the hub)."""
    if not spec.fingerprints:
        return []
    now = fingerprints(spec.source, spec.kind)
    return [part for part in sorted({*now, *spec.fingerprints}) if now.get(part) != spec.fingerprints.get(part)]


def _digest(files: list[Path]) -> str:
    digest = hashlib.sha256()
    for file in files:
        size = file.stat().st_size
        digest.update(f"{file.name} {size}\n".encode())
        with file.open("rb") as stream:
            if size <= BLOCK_BYTES * BLOCKS:
                digest.update(stream.read())
                continue
            for number in range(BLOCKS):
                stream.seek((size - BLOCK_BYTES) * number // (BLOCKS - 1))
                digest.update(stream.read(BLOCK_BYTES))
    return digest.hexdigest()
