"""Bytes of a file as text: unpacked as its first bytes say, decoded by its byte order mark or as a library detects."""

from __future__ import annotations

import bz2
import codecs
import gzip
import io
import lzma
import shlex
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from advisor.core.data import DataKind
from advisor.core.errors import DataError
from advisor.core.units import format_bytes
from advisor.hardware.host import inspect_host

SUFFIX_KINDS: dict[str, DataKind] = {
    ".csv": "csv", ".tsv": "csv", ".tab": "csv",
    ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "jsonl",
    ".parquet": "parquet", ".pq": "parquet",
    ".xlsx": "excel", ".xlsm": "excel",
    ".txt": "text", ".text": "text", ".md": "text",
    ".conll": "conll", ".bio": "conll", ".iob": "conll", ".iob2": "conll",
}  # fmt: skip
PACKED_SUFFIXES = (".gz", ".bz2", ".xz", ".zst")
"""A file may be packed, which its name says after the suffix of its kind: ``reviews.csv.gz``."""

_BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16, whose mark it begins with
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_CANDIDATES = (
    "cp1252", "cp1250", "cp1251", "cp1253", "cp1254", "cp1255", "cp1256", "koi8_r",
    "shift_jis", "euc_jp", "gb18030", "big5", "euc_kr",
)  # fmt: skip
"""Encodings that tables come in. The detector knows nearly a hundred, and takes rare ones for these."""
_USUAL = "cp1252"
MEMORY_PER_FILE_BYTE = 8
"""Free memory that reading takes for each byte of a file, about: its bytes, its text, and its rows as objects."""
LEAST_ACCEPTED_BYTES = 2**28
"""Files of this size are read on every machine: free memory is an estimate."""
_PART_BYTES = 2**22
_DETECT_BYTES = 200_000
_LOOK_BYTES = 4096
_OPTION = "--read-option encoding=NAME"


@dataclass(frozen=True)
class FileText:
    """Text of a file.

    Attributes:
        text: Without a byte order mark.
        notes: What was not read in the usual way, each a sentence for the user.
    """

    text: str
    notes: tuple[str, ...] = ()


def file_kind(path: Path) -> DataKind | None:
    """How a file of that name is read; ``None`` where the name does not say."""
    name = path.name.lower()
    for packed in PACKED_SUFFIXES:
        name = name.removesuffix(packed)
    return SUFFIX_KINDS.get(Path(name).suffix)


def require_known_kind(path: Path, what: str = "the data") -> DataKind:
    """The kind of a file.

    Raises:
        DataError: its name does not say how to read it; the fix is the one for that kind of file.
    """
    kind = file_kind(path)
    if kind is not None:
        return kind
    name, known = path.name.lower(), ", ".join(SUFFIX_KINDS)
    if name.endswith((".zip", ".tar", ".tar.gz", ".tgz", ".tar.zst", ".7z", ".rar")):
        fix = "unpack it, and name the file inside"
    elif name.endswith((".xls", ".ods", ".numbers")):
        fix = "save it as .xlsx or .csv"
    elif name.endswith((".arrow", ".feather", ".pkl", ".pickle", ".h5", ".avro", ".orc")):
        fix = "save the rows as .parquet or .jsonl (a folder of `datasets.save_to_disk` is named as the folder)"
    else:
        fix = f"if it is one of these, give it the suffix of its format: {known}"
    raise DataError(
        f"{what} must be CSV, JSONL, Parquet, Excel or text, but {path} ends in {path.suffix or 'no suffix'!r}", fix=fix
    )


def require_file(path: Path) -> None:
    """Raise a DataError unless ``path`` is a file."""
    if path.is_dir():
        raise DataError(
            f"the data must be a file or a saved `datasets` folder, but {path} is another folder",
            fix=_files_inside(path),
        )
    if path.is_file():
        return
    if path.exists() or path.is_symlink():
        kind = "no ordinary file" if path.exists() else "a link that leads nowhere"
        raise DataError(
            f"the data must be a file, but {path} is {kind}", fix="copy the rows into a file, and name that"
        )
    raise DataError(f"the data file must exist, but there is none at {path}", fix="check the path")


def _files_inside(folder: Path) -> str:
    """Files of training data first; of a cloned data set they stand one folder further down."""
    inside = [*folder.glob("*"), *folder.glob("[!.]*/*")]
    found = [str(file.relative_to(folder)) for file in inside if file_kind(file) is not None and file.is_file()]
    files = sorted(found, key=lambda name: (Path(name).suffix == ".md", "train" not in name, name))
    if not files:
        return "name a file, or a folder that `datasets.save_to_disk` wrote"
    more = f" and {len(files) - 5} others" if len(files) > 5 else ""
    return f"name one of the files in it: {', '.join(files[:5])}{more}"


def largest_bytes() -> int:
    """The most that a file of data may hold, unpacked: rows take several times as much in memory as in their file."""
    return max(LEAST_ACCEPTED_BYTES, inspect_host().available_bytes // MEMORY_PER_FILE_BYTE)


def check_size(path: Path, size_bytes: int, limit_bytes: int, *, more: bool = False) -> None:
    """Refuse what would not fit into memory.

    Args:
        path: Of the file.
        size_bytes: What it holds, unpacked.
        limit_bytes: ``largest_bytes()``.
        more: Unpacking ended at the limit, so that it holds more than ``size_bytes``.

    Raises:
        DataError: with the size.
    """
    if size_bytes > limit_bytes:
        raise DataError(
            f"the data must fit into memory, but {path} holds {'more than ' if more else ''}"
            f"{format_bytes(size_bytes)}, and this machine can read files of up to {format_bytes(limit_bytes)}",
            fix="name a file with a part of the rows; nobody needs all of such a file to compare methods",
        )


def read_bytes(path: Path, limit_bytes: int | None = None) -> bytes:
    """The content of a file, unpacked where it is packed (gzip, bzip2, xz, zstd), whatever its name.

    Args:
        path: Of the file.
        limit_bytes: The most it may hold; ``largest_bytes()`` when ``None``.

    Raises:
        DataError: missing, unreadable, damaged, or too large for this machine, also only after unpacking.
    """
    require_file(path)
    limit_bytes = largest_bytes() if limit_bytes is None else limit_bytes
    try:
        check_size(path, path.stat().st_size, limit_bytes)
        content = path.read_bytes()
    except OSError as failure:
        raise DataError(
            f"the data file must be readable, but {path} is not: {failure.strerror}", fix="check its permissions"
        ) from None
    for mark, (name, unpack) in _PACKINGS.items():
        if content.startswith(mark):
            try:
                with unpack(io.BytesIO(content)) as stream:
                    return _unpacked(path, stream, limit_bytes)
            except (OSError, EOFError, ValueError, zlib.error, lzma.LZMAError) as failure:
                raise DataError(
                    f"a packed file must be whole, but {path} ({name}) cannot be unpacked: {failure}",
                    fix="fetch or pack it again",
                ) from None
    return content


def _unpacked(path: Path, stream: Any, limit_bytes: int) -> bytes:
    """All that a stream gives; a small file can hold any amount of zeros."""
    parts, size_bytes = [], 0
    while part := stream.read(_PART_BYTES):
        size_bytes += len(part)
        check_size(path, size_bytes, limit_bytes, more=True)
        parts.append(bytes(part))
    return b"".join(parts)


def _unpack_zstd(stream: io.BytesIO) -> Any:
    import pyarrow

    return pyarrow.CompressedInputStream(pyarrow.PythonFile(stream, mode="r"), "zstd")


_PACKINGS: dict[bytes, tuple[str, Callable[..., Any]]] = {
    b"\x1f\x8b": ("gzip", gzip.open),
    b"BZh": ("bzip2", bz2.open),
    b"\xfd7zXZ\x00": ("xz", lzma.open),
    b"\x28\xb5\x2f\xfd": ("zstd", _unpack_zstd),
}


def read_text(path: Path, encoding: str | None = None) -> FileText:
    """A text file in any usual encoding.

    Args:
        path: Of the file.
        encoding: By the user; ``None`` goes by the byte order mark, takes UTF-8 where that is what it is, and detects
            the encoding otherwise, with a note.

    Raises:
        DataError: missing, unreadable, damaged, no text at all, or in an encoding that is not certain.
    """
    content = read_bytes(path)
    if encoding is None:
        _refuse_other_things(path, content)
        encoding, notes = _encoding_of(path, content)
    else:
        notes = ()
    try:
        return FileText(content.decode(encoding).removeprefix("\ufeff"), notes)
    except LookupError:
        raise DataError(
            f"an encoding must be one that Python knows, but got {encoding!r}",
            fix="for example --read-option encoding=cp1252, or leave it out to have it detected",
        ) from None
    except UnicodeError as failure:
        where = f" in line {content[: failure.start].count(10) + 1}" if isinstance(failure, UnicodeDecodeError) else ""
        raise DataError(
            f"text must be in its encoding, but {path} is not {encoding}: {_reason(failure)}{where}",
            fix=f"name another with {_OPTION}, or leave it out to have it detected",
        ) from None


def _reason(failure: UnicodeError) -> str:
    return failure.reason if isinstance(failure, UnicodeDecodeError) else str(failure)


def _refuse_other_things(path: Path, content: bytes) -> None:
    """What often stands under the name of a table and is none."""
    begin = content[:_LOOK_BYTES]
    found = None
    if begin.startswith(b"PAR1"):
        found = ("is a Parquet file", _renamed(path, ".parquet"))
    elif begin.startswith(b"PK\x03\x04"):
        workbook = b"xl/" in content[: 10 * _LOOK_BYTES] or b"[Content_Types].xml" in begin
        found = (
            ("is an Excel workbook", _renamed(path, ".xlsx"))
            if workbook
            else ("is a ZIP archive", "unpack it, and name the file inside")
        )
    elif begin.startswith(b"version https://git-lfs"):
        found = ("is only the pointer of a file in Git LFS", "fetch the file itself: git lfs pull")
    elif begin.lstrip()[:15].lower().startswith((b"<!doctype html", b"<html")):
        found = ("is a web page", "download the file itself (the raw one)")
    if found is not None:
        raise DataError(f"the data must be text, but {path} {found[0]}", fix=found[1])


def _renamed(path: Path, suffix: str) -> str:
    return f"rename it: mv {shlex.quote(str(path))} {shlex.quote(str(path.with_suffix(suffix)))}"


def _encoding_of(path: Path, content: bytes) -> tuple[str, tuple[str, ...]]:
    for mark, encoding in _BYTE_ORDER_MARKS:
        if content.startswith(mark):
            return encoding, ()
    if wide := _without_mark(content[:_LOOK_BYTES]):
        return wide, (f"{path.name} is read as {wide.upper()}; {_OPTION} reads it otherwise",)
    try:
        content.decode("utf-8")
        return "utf-8", ()
    except UnicodeDecodeError as failure:
        found = None if _is_damaged_utf8(content) else _detected(content)
        if found is None:
            raise _undecided(path, content, failure) from None
    return found, (f"{path.name} is not UTF-8: read as {found} (detected); {_OPTION} reads it otherwise",)


def _without_mark(begin: bytes) -> str | None:
    """UTF-16 without a byte order mark: every second byte of mostly Latin text is zero."""
    even, odd = begin[0::2].count(0), begin[1::2].count(0)
    half = len(begin) / 2
    if half >= 2 and max(even, odd) > 0.4 * half and min(even, odd) < 0.1 * half:
        return "utf-16-le" if odd > even else "utf-16-be"
    return None


def _is_damaged_utf8(content: bytes) -> bool:
    """Whether most of what is not ASCII is UTF-8, so that another encoding would spoil it."""
    text = content.decode("utf-8", "replace")
    broken = text.count("\ufffd")
    return sum(1 for character in text if character > "\x7f") - broken > 4 * broken


def _detected(content: bytes) -> str | None:
    """What charset-normalizer finds in the lines that tell; the usual encoding where it does as well as the best."""
    from charset_normalizer import from_bytes

    telling = [line for line in content.split(b"\n") if not line.isascii()]
    sample = b"\n".join(telling)[:_DETECT_BYTES]
    matches = list(from_bytes(sample, cp_isolation=list(_CANDIDATES)))
    if not matches:
        return None
    best = matches[0]
    usual = next((m for m in matches if _USUAL in m.could_be_from_charset), None)
    names = [match.encoding for match in matches]
    if usual is not None and usual.chaos <= best.chaos and usual.coherence >= best.coherence - 0.01:
        names.insert(0, _USUAL)
    return next((name for name in names if _decodes(content, name)), None)


def _decodes(content: bytes, encoding: str) -> bool:
    try:
        content.decode(encoding)
    except UnicodeDecodeError:
        return False
    return True


def _undecided(path: Path, content: bytes, failure: UnicodeDecodeError) -> DataError:
    line = content[: failure.start].count(b"\n") + 1
    byte = f"the byte 0x{content[failure.start]:02x} in line {line}"
    if b"\0" in content[:_LOOK_BYTES]:
        return DataError(
            f"the data must be text, but {path} holds binary data: {byte}", fix="check that it is the file you mean"
        )
    if _is_damaged_utf8(content):
        return DataError(
            f"text must be in one encoding, but {path} is UTF-8 except for {byte}",
            fix=f"drop such bytes: iconv -c -f utf-8 -t utf-8 {shlex.quote(str(path))} > clean{path.suffix}",
        )
    return DataError(
        f"the encoding of text must be known, but {path} is not UTF-8 ({byte}) and no other is certain",
        fix=f"name it with {_OPTION}, for example --read-option encoding=cp1252",
    )
