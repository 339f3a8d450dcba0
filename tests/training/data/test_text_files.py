"""Files in other encodings, packed ones, and what is no text at all."""

from __future__ import annotations

import bz2
import gzip
import lzma
from pathlib import Path

import pyarrow
import pytest

from advisor.core.errors import DataError
from advisor.training.data.tables import read_table
from advisor.training.data.text_files import file_kind, read_text, require_known_kind

TABLE = "text,label\nCafé à la crème – très bon,pos\nDer Käse ist übel,neg\n"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_unicode_is_read_without_a_word(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "table.csv"
    path.write_bytes(TABLE.encode(encoding))
    read = read_text(path)
    assert (read.text, read.notes) == (TABLE, ())


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_wide_text_without_a_mark_is_recognised_and_said(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "table.csv"
    path.write_bytes(TABLE.encode(encoding))
    read = read_text(path)
    assert read.text == TABLE and "UTF-16" in read.notes[0]


@pytest.mark.parametrize(
    ("encoding", "text"),
    [
        ("cp1252", TABLE),
        ("cp1252", "text,label\n" + "It’s a “great” film,pos\nplain words only,neg\n" * 4),
        ("cp1252", "text,label\nEl niño comió mañana en España,pos\nqué mal,neg\n"),
        ("cp1250", "text;label\n" + "Zażółć gęślą jaźń, bardzo dobry;pos\nTo był słaby film;neg\n" * 3),
        ("cp1251", "text,label\n" + "Очень хороший фильм,pos\nплохой фильм,neg\n" * 3),
        ("gb18030", "text,label\n" + "这部电影非常好看,pos\n电影很差劲,neg\n" * 3),
    ],
)
def test_other_encodings_are_detected_and_said(tmp_path: Path, encoding: str, text: str) -> None:
    path = tmp_path / "table.csv"
    path.write_bytes(text.encode(encoding))
    read = read_text(path)
    assert read.text == text
    assert encoding in read.notes[0] and "--read-option encoding=" in read.notes[0]
    assert read_text(path, encoding).notes == ()


def test_utf8_with_a_broken_byte_is_not_taken_for_something_else(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_bytes(TABLE.encode() + b"broken \xff,neg\n")
    with pytest.raises(DataError, match="UTF-8 except for the byte 0xff in line 4") as refused:
        read_text(path)
    assert "iconv -c" in str(refused.value.fix)


def pack_zstd(content: bytes) -> bytes:
    sink = pyarrow.BufferOutputStream()
    with pyarrow.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(content)
    return bytes(sink.getvalue())


@pytest.mark.parametrize(
    ("suffix", "pack"),
    [(".gz", gzip.compress), (".bz2", bz2.compress), (".xz", lzma.compress), (".zst", pack_zstd), ("", gzip.compress)],
)
def test_packed_files_are_unpacked_whatever_their_name(tmp_path: Path, suffix: str, pack: object) -> None:
    path = tmp_path / f"table.csv{suffix}"
    content = pack(TABLE.encode())  # type: ignore[operator]
    path.write_bytes(content)
    assert file_kind(path) == "csv"
    assert read_table(path, "csv").num_rows == 2
    path.write_bytes(content[:-8])
    with pytest.raises(DataError, match="cannot be unpacked"):
        read_table(path, "csv")


@pytest.mark.parametrize(
    ("content", "told", "fix"),
    [
        (b"PAR1 and so on", "is a Parquet file", "mv "),
        (b"PK\x03\x04" + b"[Content_Types].xml", "Excel workbook", ".xlsx"),
        (b"PK\x03\x04reviews.csv", "ZIP archive", "unpack"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS", "git lfs pull"),
        (b"\n<!DOCTYPE html><html>", "web page", "download"),
        (bytes(range(256)) * 4, "binary data", "the file you mean"),
    ],
)
def test_what_is_no_table_is_called_what_it_is(tmp_path: Path, content: bytes, told: str, fix: str) -> None:
    path = tmp_path / "table.csv"
    path.write_bytes(content)
    with pytest.raises(DataError, match=told) as refused:
        read_table(path, "csv")
    assert fix in str(refused.value.fix)


@pytest.mark.parametrize("name", ["data.zip", "data.tar.gz", "data.xls", "data.pkl", "data", "data.doc"])
def test_names_that_say_nothing_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match="CSV, JSONL, Parquet, Excel or text") as refused:
        require_known_kind(tmp_path / name)
    assert refused.value.fix


def test_a_wrong_encoding_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_bytes(TABLE.encode())
    with pytest.raises(DataError, match="one that Python knows"):
        read_text(path, "utf-9")
    with pytest.raises(DataError, match=r"not ascii: .* in line 2"):
        read_text(path, "ascii")
