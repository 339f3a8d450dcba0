from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from advisor.core.data import DataSpec
from advisor.core.errors import DataError
from advisor.training.data import load_rows, resolve_data

CLASSIFY = "sequence-classification"


def columns(spec: DataSpec) -> tuple[str | None, str | None, str | None]:
    return spec.text_column, spec.text_pair_column, spec.label_column


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (["id", "text", "label"], ("text", None, "label")),
        (["Sentence", "Label"], ("Sentence", None, "Label")),
        (["idx", "premise", "hypothesis", "label"], ("premise", "hypothesis", "label")),
        (["body", "label"], ("body", None, "label")),
        (["text", "verdict"], ("text", None, "verdict")),
    ],
)
def test_columns_are_detected(write_csv: Callable[..., Path], header: list[str], expected: tuple[str, ...]) -> None:
    path = write_csv([header, [f"x{i}" for i in range(len(header))]])
    assert columns(resolve_data(str(path), task=CLASSIFY)) == expected


def test_named_columns_win(write_csv: Callable[..., Path]) -> None:
    path = write_csv([["text", "title", "label", "topic"], ["a", "b", "c", "d"]])
    spec = resolve_data(str(path), task=CLASSIFY, text_column="title", text_pair_column="text", label_column="topic")
    assert columns(spec) == ("title", "text", "topic")


@pytest.mark.parametrize(
    ("row", "task", "expected"),
    [
        ({"messages": []}, "causal-lm", ("messages", None, None)),
        ({"prompt": "a", "completion": "b"}, "causal-lm", ("prompt", "completion", None)),
        ({"instruction": "a", "output": "b"}, "causal-lm", ("instruction", "output", None)),
        ({"text": "a", "label": 1}, "causal-lm", ("text", None, None)),
        ({"text": "a", "label": 1}, "masked-lm", ("text", None, None)),
    ],
)
def test_language_modelling_columns(
    write_jsonl: Callable[..., Path], row: dict[str, Any], task: Any, expected: tuple[str | None, ...]
) -> None:
    assert columns(resolve_data(str(write_jsonl([row])), task=task)) == expected


@pytest.mark.parametrize("missing", ["text_column", "text_pair_column", "label_column"])
def test_wrong_column(write_csv: Callable[..., Path], missing: str) -> None:
    path = write_csv([["text", "label"], ["a", "1"]])
    with pytest.raises(DataError, match="no column 'absent'") as refused:
        resolve_data(str(path), task=CLASSIFY, **{missing: "absent"})
    assert "'text', 'label'" in str(refused.value)


def test_ambiguous_columns_are_asked_for(write_csv: Callable[..., Path]) -> None:
    path = write_csv([["alpha", "beta", "gamma"], ["a", "b", "1"]])
    with pytest.raises(DataError, match="--text-column"):
        resolve_data(str(path), task=CLASSIFY)
    with pytest.raises(DataError, match="--label-column"):
        resolve_data(str(path), task=CLASSIFY, text_column="alpha")


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("absent.csv", "there is none at"),
        ("movie-sentence", "did you mean movie-sentences"),
        ("no such thing", "is none of them"),
        ("minilm", "is none of them"),
        ("data.ods", "is none of them"),
    ],
)
def test_unknown_sources(source: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=told):
        resolve_data(source, task=CLASSIFY)


def test_existing_but_unusable_sources(tmp_path: Path) -> None:
    (tmp_path / "table.xls").write_bytes(b"\xd0\xcf")
    with pytest.raises(DataError, match=r"ends in '.xls'"):
        resolve_data(str(tmp_path / "table.xls"), task=CLASSIFY)
    with pytest.raises(DataError, match="another folder"):
        resolve_data(str(tmp_path), task=CLASSIFY)
    (tmp_path / "notes.txt").write_text("some text")
    with pytest.raises(DataError, match="plain text"):
        resolve_data(str(tmp_path / "notes.txt"), task=CLASSIFY)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"eval_fraction": 1.5}, "eval_fraction"),
        ({"max_train_rows": 0}, "max_train_rows"),
        ({"split": "train"}, "have splits"),
        ({"eval_source": "absent.csv"}, "there is none at"),
    ],
)
def test_bad_options(write_csv: Callable[..., Path], options: dict[str, Any], told: str) -> None:
    path = write_csv([["text", "label"], ["a", "1"]])
    with pytest.raises(DataError, match=told):
        resolve_data(str(path), task=CLASSIFY, **options)


def test_absent_demo_set_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ADVISOR_DEMO_DIR", str(tmp_path))
    with pytest.raises(DataError) as refused:
        resolve_data("movie-sentences", task=CLASSIFY)
    command = f"python -m advisor.training.data.assets fetch movie-sentences --to {tmp_path}"
    assert command in str(refused.value)


def test_masked_lm_takes_no_pair(write_csv: Callable[..., Path]) -> None:
    path = write_csv([["text", "other"], ["a", "b"]])
    with pytest.raises(DataError, match="one text a row"):
        resolve_data(str(path), task="masked-lm", text_column="text", text_pair_column="other")


@pytest.fixture(scope="module")
def saved_dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import datasets

    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["no", "yes"])})
    splits = {
        name: datasets.Dataset.from_dict(
            {"text": [f"{name} {i}" for i in range(count)], "label": [i % 2 for i in range(count)]}, features=features
        )
        for name, count in (("train", 12), ("test", 4))
    }
    folder = tmp_path_factory.mktemp("saved") / "set"
    datasets.DatasetDict(splits).save_to_disk(str(folder))
    splits["train"].save_to_disk(str(folder.parent / "single"))
    return folder


def test_saved_datasets_folder(saved_dataset: Path) -> None:
    spec = resolve_data(str(saved_dataset), task=CLASSIFY, eval_source="test")
    rows = load_rows(spec, CLASSIFY)
    assert (len(rows.train), len(rows.eval), rows.label_names) == (12, 4, ("no", "yes"))
    other = load_rows(resolve_data(str(saved_dataset), task=CLASSIFY, split="test"), CLASSIFY)
    assert len(other.train) + len(other.eval) == 4
    single = load_rows(resolve_data(str(saved_dataset.parent / "single"), task=CLASSIFY), CLASSIFY)
    assert len(single.train) + len(single.eval) == 12


def test_absent_split_lists_the_splits(saved_dataset: Path) -> None:
    with pytest.raises(DataError, match=r"no split 'dev'[\s\S]*train, test"):
        resolve_data(str(saved_dataset), task=CLASSIFY, split="dev")


def test_hub_data_set_offline_is_one_clear_error() -> None:
    with pytest.raises(DataError) as refused:
        resolve_data("some-owner/some-data-set-that-is-not-cached", task=CLASSIFY)
    assert "offline" in str(refused.value)


def test_damaged_datasets_folder(tmp_path: Path) -> None:
    (tmp_path / "state.json").write_text("{")
    with pytest.raises(DataError, match="not readable"):
        resolve_data(str(tmp_path), task=CLASSIFY)


def test_local_tables_need_no_heavy_library(write_csv: Callable[..., Path]) -> None:
    import subprocess
    import sys

    path = write_csv([["text", "label"], *([f"text {i}", str(i % 2)] for i in range(20))])
    code = (
        "import sys; from advisor.training.data import resolve_data, load_rows;"
        f"load_rows(resolve_data({str(path)!r}, task='sequence-classification'), 'sequence-classification');"
        "print([m for m in ('datasets', 'torch', 'transformers', 'pandas', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"
