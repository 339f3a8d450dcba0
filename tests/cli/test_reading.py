"""Options that say how data is read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from advisor.cli.reading import label_map, read_option
from advisor.core.data import DataSpec, ReadOptions
from advisor.core.errors import InputError
from advisor.core.serialization import from_dict, to_dict
from tests.cli.conftest import Advisor


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("encoding=cp1252", ("encoding", "cp1252")),
        ("delimiter=tab", ("delimiter", "\t")),
        ("delimiter=:", ("delimiter", ":")),
        ("quoting=none", ("quoting", "none")),
        ("header=no", ("header", False)),
        ("sheet=Sheet 2", ("sheet", "Sheet 2")),
    ],
)
def test_read_options(text: str, expected: tuple[str, object]) -> None:
    assert read_option(text) == expected
    assert ReadOptions(**dict([read_option(text)]))


@pytest.mark.parametrize("text", ["encoding", "encoding=", "colour=red", "quoting=odd", "header=maybe", "delimiter=ab"])
def test_wrong_read_options(text: str) -> None:
    with pytest.raises(InputError, match="--read-option") as refused:
        read_option(text)
    assert "for example --read-option" in str(refused.value.fix)


def test_label_maps(tmp_path: Path) -> None:
    pairs = (("NEG", "neg"), ("POS", "pos"))
    assert label_map("NEG=neg, POS=pos") == pairs
    (tmp_path / "map.json").write_text(json.dumps(dict(pairs)))
    (tmp_path / "map.csv").write_text("NEG,neg\nPOS,pos\n")
    assert label_map(str(tmp_path / "map.json")) == label_map(str(tmp_path / "map.csv")) == pairs
    (tmp_path / "one.csv").write_text("NEG\nPOS\n")
    (tmp_path / "list.json").write_text("[1]")
    for wrong in ("NEG", "absent.json", "=x", "NEG=", str(tmp_path / "one.csv"), str(tmp_path / "list.json")):
        with pytest.raises(InputError, match="--label-map"):
            label_map(wrong)


def test_how_data_is_read_is_kept_in_plans_and_older_ones_are_read_as_before() -> None:
    spec = DataSpec(
        "rows.csv",
        "csv",
        format="labelled",
        reading=ReadOptions(encoding="cp1252", header=False),
        label_map=(("NEG", "neg"),),
        drop_labels=("spam",),
        stratified=True,
    )
    assert from_dict(DataSpec, json.loads(json.dumps(to_dict(spec))), what="data") == spec
    older = from_dict(DataSpec, {"source": "rows.csv", "kind": "csv"}, what="data")
    assert (older.format, older.stratified, older.reading) == (None, False, ReadOptions())


def test_a_prediction_takes_the_options(advisor: Advisor, model_dir: Path, cpu_profile: object, tmp_path: Path) -> None:
    table = tmp_path / "export.csv"
    rows = [
        f"Der K\u00e4se {i} war {'gut' if i % 2 else 'alt'};{['NEG', 'pos', 'neg', '?'][i % 4]}\n" for i in range(40)
    ]
    table.write_bytes("".join(["text;label\n", *rows]).encode("cp1252"))
    call = ("predict", model_dir, "--data", table, "--method", "head", "--seq-length", "16")
    answer = advisor(*call, "--read-option", "encoding=cp1252", "--label-map", "NEG=neg", "--drop-labels", "?")
    assert answer.code == 0, answer.stderr
    assert "30 rows in 2 classes" in answer.stderr and "detected" not in answer.stderr
    refused = advisor(*call, "--format", "chat", "--json")
    assert refused.code == 2 and "labelled" in refused.json["fix"]
