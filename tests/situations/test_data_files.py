"""Files as people bring them: what is read, what is said, what is refused. One small case of each kind."""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from advisor.core.errors import DataError
from advisor.training.data.rows import AnswerPair, Completion, Conversation, LabelledText, PlainText
from tests.situations.data_attempts import DECODER, ENCODER, Attempt

PLACES = ("harbour", "garden", "station", "library", "market", "bridge")


def sentence(i: int) -> str:
    return f"The {PLACES[i % 6]} of visit {i} was {'lovely' if i % 2 else 'gloomy'}."


def labelled(labels: Sequence[str] = ("gloomy", "lovely"), rows: int = 40) -> list[tuple[str, str]]:
    return [(sentence(i), labels[i % len(labels)]) for i in range(rows)]


def delimited(rows: Sequence[tuple[str, str]], delimiter: str = ",", header: str = "text{}label\n") -> str:
    return header.format(delimiter) + "".join(f"{text}{delimiter}{label}\n" for text, label in rows)


def lines(records: Sequence[Any]) -> str:
    return "".join(json.dumps(record) + "\n" for record in records)


def put(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def classes(path: Path, **options: str) -> dict[str, int]:
    rows = Attempt(path).with_(**options).rows()
    held = [row.label for row in rows.eval if isinstance(row, LabelledText)]
    return {name: count + held.count(i) for i, (name, count) in enumerate(rows.class_counts.items())}


BALANCED = {"gloomy": 20, "lovely": 20}


def test_a_tsv_whose_marks_are_text(tmp_path: Path) -> None:
    rows = labelled()
    rows[4] = ('"' + rows[4][0], rows[4][1])
    rows[20] = ('"' + rows[20][0], rows[20][1])
    path = put(tmp_path, "visits.tsv", delimited(rows, "\t"))
    assert classes(path) == BALANCED
    assert max(len(row.texts[0]) for row in Attempt(path).rows().train) < 60


def test_labels_that_pandas_wrote_as_floats(tmp_path: Path) -> None:
    assert classes(put(tmp_path, "visits.csv", delimited(labelled(["0.0", "1.0"])))) == {"0": 20, "1": 20}


@pytest.mark.parametrize("name", ["visits.csv", "visits.txt.csv"])
def test_unicode_text_of_a_spreadsheet(tmp_path: Path, name: str) -> None:
    assert classes(put(tmp_path, name, delimited(labelled(), "\t").encode("utf-16"))) == BALANCED


@pytest.mark.parametrize("name", ["visits.csv.gz", "visits.csv"])
def test_a_packed_file_by_any_name(tmp_path: Path, name: str) -> None:
    assert classes(put(tmp_path, name, gzip.compress(delimited(labelled()).encode()))) == BALANCED


def test_a_delimiter_in_a_quoted_name(tmp_path: Path) -> None:
    path = put(tmp_path, "visits.csv", delimited(labelled(), ";", header='"Visit, in words"{}label\n'))
    assert classes(path) == BALANCED


def test_classes_that_are_spelt_in_two_ways(tmp_path: Path) -> None:
    path = put(tmp_path, "visits.csv", delimited(labelled(["gloomy", "lovely", "Gloomy ", "LOVELY"])))
    assert len(classes(path)) == 4
    told = next(note for note in Attempt(path).rows().notes if "look alike" in note)
    assert "--label-map Gloomy=gloomy,LOVELY=lovely" in told or "--label-map gloomy=Gloomy,lovely=LOVELY" in told
    assert classes(path, label_map="Gloomy=gloomy,LOVELY=lovely") == BALANCED
    assert classes(path, drop_labels="Gloomy,LOVELY") == {"gloomy": 10, "lovely": 10}


def test_classes_with_one_row_are_named(tmp_path: Path) -> None:
    path = put(tmp_path, "visits.csv", delimited([*labelled(), ("The tower was shut.", "closed")]))
    notes = Attempt(path).rows().notes
    assert "3 classes, the smallest one 'closed' with 1 rows" in notes[0]
    assert any("the class 'closed' has one row" in note for note in notes)
    assert classes(path, drop_labels="closed") == BALANCED


def test_every_class_is_held_out_by_its_share(tmp_path: Path) -> None:
    rare = [(f"Shut door {i}.", "closed") for i in range(20)]
    path = put(tmp_path, "visits.csv", delimited([*labelled(rows=400), *rare]))
    held = [row.label for row in Attempt(path).rows().eval if isinstance(row, LabelledText)]
    assert [held.count(i) for i in range(3)] == [2, 20, 20]


def test_evaluation_data_with_other_classes(tmp_path: Path) -> None:
    path = put(tmp_path, "train.csv", delimited(labelled()))
    other = put(tmp_path, "dev.csv", delimited([("A bridge.", "gloomy"), ("Shut.", "closed")]))
    assert any("dev.csv beside the training data is not used" in note for note in Attempt(path).rows().notes)
    with pytest.raises(DataError, match="'closed' do not") as refused:
        Attempt(path).with_(eval_data=str(other)).rows()
    assert "--drop-labels" in str(refused.value.fix)
    only = put(tmp_path, "test.csv", delimited([("A bridge.", "gloomy")]))
    notes = Attempt(path).with_(eval_data=str(only)).rows().notes
    assert "the held-out rows have none of the class 'lovely': no figure tells how well it is learned" in notes


def test_validation_splits_that_are_not_used(tmp_path: Path) -> None:
    import datasets

    split = datasets.Dataset.from_list([{"text": t, "label": c} for t, c in labelled()])
    datasets.DatasetDict({"train": split, "validation": split, "test": split}).save_to_disk(str(tmp_path / "visits"))
    notes = Attempt(tmp_path / "visits").rows().notes
    assert "splits that are not used: validation, test; --eval-data validation evaluates on it" in notes


def test_texts_alone_for_a_decoder_and_for_an_encoder(tmp_path: Path) -> None:
    path = put(tmp_path, "visits.jsonl", lines([{"text": sentence(i)} for i in range(40)]))
    assert Attempt(path, DECODER).task() == "causal-lm"
    assert isinstance(Attempt(path, DECODER).rows().train[0], PlainText)
    assert Attempt(path, ENCODER).task() == "masked-lm"
    with_link = put(
        tmp_path, "links.jsonl", lines([{"text": sentence(i), "link": f"v{i}", "page": i} for i in range(40)])
    )
    assert Attempt(with_link, DECODER).task() == "causal-lm"
    with pytest.raises(DataError, match="no column of labels") as refused:
        Attempt(with_link, ENCODER).rows()
    assert "--task" in str(refused.value.fix)


ASK, SAY = {"role": "user", "content": "When is low water?"}, {"role": "assistant", "content": "At noon."}


@pytest.mark.parametrize(
    ("record", "kind"),
    [
        ({"messages": [ASK, SAY], "source": "web"}, Conversation),
        ({"dialogue": [{"from": "human", "value": "When?"}, {"from": "gpt", "value": "At noon."}]}, Conversation),
        ({"instruction": "Say when", "input": "low water", "output": "At noon."}, Conversation),
        ({"prompt": [ASK], "completion": [SAY]}, Conversation),
        ({"prompt": "When is low water?", "completion": "At noon."}, Completion),
        ({"question": "When is low water?", "answer": "At noon."}, Completion),
    ],
)
def test_instructions_in_their_usual_forms_need_no_option(tmp_path: Path, record: dict[str, Any], kind: type) -> None:
    path = put(tmp_path, "asked.json", json.dumps([record, record | {"id": 2}]))
    records = [
        json.loads(json.dumps(record).replace("low water", f"low water {i}").replace("When?", f"When {i}?"))
        for i in range(9)
    ]
    path = put(tmp_path, "asked.json", json.dumps(records))
    assert Attempt(path, DECODER).task() == "causal-lm"
    rows = Attempt(path, DECODER).rows()
    assert len(rows.train) + len(rows.eval) == 9 and all(isinstance(row, kind) for row in rows.train)
    assert rows.notes[0].startswith("read as ")


def test_inputs_of_instructions_are_read(tmp_path: Path) -> None:
    records = [{"instruction": "Shorten.", "input": sentence(i), "output": PLACES[i % 6]} for i in range(20)]
    rows = Attempt(put(tmp_path, "short.json", json.dumps(records)), DECODER).rows()
    assert rows.findings.duplicate_rows == 0
    assert all("visit" in " ".join(row.texts) for row in rows.train)


def test_preferences_are_never_trained_by_their_prompts(tmp_path: Path) -> None:
    records = [{"prompt": f"Describe visit {i}", "chosen": sentence(i), "rejected": "No."} for i in range(20)]
    path = put(tmp_path, "liked.jsonl", lines(records))
    for options in ({"task": "causal-lm"}, {"task": "causal-lm", "text_column": "prompt"}):
        with pytest.raises(DataError, match="preference data"):
            Attempt(path, DECODER).with_(**options).rows()
    for options in ({}, {"text_column": "prompt"}):
        assert all(isinstance(row, AnswerPair) for row in Attempt(path, DECODER).with_(**options).rows().train)
    chosen = Attempt(path, DECODER).with_(format="chosen").rows()
    assert all(isinstance(row, Completion) and row.completion.startswith("The ") for row in chosen.train)
