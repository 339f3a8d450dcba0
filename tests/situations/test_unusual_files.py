"""Files that are no ordinary files: bombs, devices, circles, endless nesting, names that are not UTF-8, huge lines."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import os
import zipfile
from pathlib import Path

import pytest

from advisor.core.errors import DataError, InputError, ModelError, PlanError
from advisor.core.plan import load_plan
from advisor.core.serialization import LARGEST_JSON_BYTES, read_json, to_json
from advisor.training.data import text_files
from advisor.training.data.tables import read_table
from advisor.training.detection import choose_task
from tests.situations.data_attempts import Attempt

TABLE = "text,label\n" + "".join(f"Tide {i} at noon,{'high' if i % 2 else 'low'}\n" for i in range(30))
LIMIT_BYTES = 2**20


@pytest.fixture
def small_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """One whose memory takes files of a mebibyte."""
    monkeypatch.setattr(text_files, "LEAST_ACCEPTED_BYTES", LIMIT_BYTES)
    monkeypatch.setattr(text_files, "MEMORY_PER_FILE_BYTE", 2**60)


def zstd(content: bytes) -> bytes:
    import pyarrow

    return bytes(pyarrow.compress(content, codec="zstd", asbytes=True))


@pytest.mark.usefixtures("small_machine")
@pytest.mark.parametrize(
    ("suffix", "pack"), [(".gz", gzip.compress), (".bz2", bz2.compress), (".xz", lzma.compress), (".zst", zstd)]
)
def test_a_small_file_that_unpacks_to_a_large_one_is_refused(tmp_path: Path, suffix: str, pack: object) -> None:
    path = tmp_path / f"tides.csv{suffix}"
    path.write_bytes(pack(TABLE.encode() + b"x" * (8 * LIMIT_BYTES)))  # type: ignore[operator]
    assert path.stat().st_size < LIMIT_BYTES / 10
    with pytest.raises(DataError, match=r"more than .* MiB") as refused:
        Attempt(path).rows()
    assert "a part of the rows" in str(refused.value.fix)


@pytest.mark.usefixtures("small_machine")
def test_a_workbook_that_unpacks_to_a_large_one_is_refused(tmp_path: Path) -> None:
    import openpyxl

    book, path = openpyxl.Workbook(), tmp_path / "tides.xlsx"
    book.active.append(["text", "label"])
    book.save(path)
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("xl/media/image1.png", b"\0" * (40 * LIMIT_BYTES))
    with pytest.raises(DataError, match="fit into memory"):
        Attempt(path).rows()


@pytest.mark.usefixtures("small_machine")
def test_a_parquet_file_of_very_many_rows_is_refused(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    values = pyarrow.array(["same"]).dictionary_encode().take(pyarrow.array([0] * 2**20))
    path = tmp_path / "tides.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"text": values, "label": values}), path)
    assert path.stat().st_size < LIMIT_BYTES / 10
    with pytest.raises(DataError, match="fit into memory"):
        Attempt(path).rows()


def test_a_sheet_that_claims_a_million_rows(tmp_path: Path) -> None:
    import openpyxl

    book, path = openpyxl.Workbook(), tmp_path / "tides.xlsx"
    for row in [["text", "label"], *([f"Tide {i}", ["low", "high"][i % 2]] for i in range(30))]:
        book.active.append(row)
    book.active.cell(row=40_000, column=16_000).number_format = "0.0"  # a cell that was only formatted
    book.save(path)
    table = read_table(path, "excel")
    assert (table.num_rows, list(table.columns)) == (30, ["text", "label"])


def test_a_line_of_many_megabytes(tmp_path: Path) -> None:
    long = "tide " * 400_000
    path = tmp_path / "tides.csv"
    path.write_text(TABLE + f'"{long}",low\n')
    rows = Attempt(path).rows()
    assert max(len(row.texts[0]) for row in (*rows.train, *rows.eval)) == len(long.strip())
    path = tmp_path / "tides.jsonl"
    path.write_text("".join(json.dumps({"text": long + str(i), "label": str(i % 2)}) + "\n" for i in range(4)))
    assert len(Attempt(path).rows().train) + len(Attempt(path).rows().eval) == 4


def test_names_that_are_not_utf8(tmp_path: Path) -> None:
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9"))
    folder.mkdir()
    path = folder / "tides.csv"
    path.write_text(TABLE)
    assert len(Attempt(path).rows().train) == 27
    kept = to_json({"path": path})
    assert json.loads(kept.encode("utf-8")) == {"path": str(path)}


def test_links_are_followed_and_circles_are_named(tmp_path: Path) -> None:
    (tmp_path / "tides.csv").write_text(TABLE)
    link = tmp_path / "link.csv"
    link.symlink_to("tides.csv")
    assert len(Attempt(link).rows().train) == 27
    circle = tmp_path / "circle.csv"
    circle.symlink_to("circle.csv")
    with pytest.raises(DataError, match="a link that leads nowhere"):
        Attempt(circle).rows()
    with pytest.raises(ModelError, match="leads nowhere"):
        choose_task(str(circle), str(tmp_path / "tides.csv"))
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").symlink_to("config.json")
    (model / "other.json").symlink_to("config.json")
    with pytest.raises(InputError):
        choose_task(str(model))


def test_devices_and_pipes_are_no_files(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.jsonl"
    os.mkfifo(pipe)
    with pytest.raises(DataError, match="no ordinary file"):
        Attempt(pipe).rows()
    for path in (pipe, Path("/dev/zero")):
        with pytest.raises(PlanError, match="no ordinary file"):
            load_plan(path)
    with pytest.raises(PlanError, match="a folder"):
        load_plan(tmp_path)


@pytest.mark.parametrize("content", ["[" * 100_000, '{"a":' * 100_000])
def test_endless_nesting_is_named(tmp_path: Path, content: str) -> None:
    path = tmp_path / "plan.json"
    path.write_text(content)
    with pytest.raises(PlanError, match="nests too deeply") as refused:
        load_plan(path)
    assert refused.value.fix
    with pytest.raises(DataError):
        Attempt(path).rows()


def test_a_configuration_of_a_gigabyte_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    with path.open("wb") as stream:
        stream.write(b'{"model_type": "bert", "x": "')
        stream.truncate(2**30)
    with pytest.raises(ModelError, match=f"at most {LARGEST_JSON_BYTES // 2**20} MiB.* has 1024 MiB"):
        choose_task(str(path))
    with pytest.raises(InputError, match="1024 MiB"):
        read_json(path, what="it")


def test_a_damaged_workbook_is_named(tmp_path: Path) -> None:
    path = tmp_path / "tides.xlsx"
    with zipfile.ZipFile(io.BytesIO(), "w") as archive:
        archive.writestr("xl/workbook.xml", "<oops")
        path.write_bytes(archive.fp.getvalue())  # type: ignore[union-attr]
    with pytest.raises(DataError, match="Excel workbook"):
        Attempt(path).rows()
