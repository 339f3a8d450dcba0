from __future__ import annotations

import pickle
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from advisor.core.errors import DataError
from advisor.core.model import ModelSpec
from advisor.training.data import PreparedData, prepare_data, profile_data, resolve_data

Spec = Callable[..., ModelSpec]


@pytest.fixture
def film_reviews(write_csv: Callable[..., Path]) -> Path:
    rows = [["very " * (i % 13) + ["bad", "good"][i % 2] + f" film {i}", ["no", "yes"][i % 2]] for i in range(60)]
    return write_csv([["text", "label"], *rows])


@pytest.fixture
def story(tmp_path: Path) -> Path:
    path = tmp_path / "story.txt"
    path.write_text(
        "\n\n".join(" ".join(["the good film", "a bad film", "one two three"][i % 3 :]) for i in range(200))
    )
    return path


def prepared(path: Path, model: ModelSpec, tokenizer: Any, max_seq_length: int = 16, **options: Any) -> PreparedData:
    return prepare_data(
        resolve_data(str(path), task=model.task, **options), model, tokenizer, max_seq_length=max_seq_length
    )


def test_batches_are_padded_to_eights_within_the_limit(
    film_reviews: Path, model_spec: Spec, encoder_tokenizer: Any
) -> None:
    data = prepared(film_reviews, model_spec(), encoder_tokenizer, max_seq_length=14)
    assert data.padded and data.label_names == ("no", "yes")
    lengths = data.train_dataset.lengths
    short = data.collator([data.train_dataset[int(i)] for i in np.argsort(lengths)[:4]])
    assert short["input_ids"].shape == (4, 8)
    assert short["attention_mask"].sum(1).tolist() == sorted(lengths)[:4]
    assert (short["input_ids"][short["attention_mask"] == 0] == encoder_tokenizer.pad_token_id).all()
    longest = data.longest_batch(4)
    assert longest["input_ids"].shape == (4, 14)
    assert longest["attention_mask"].sum() == np.sort(lengths)[-4:].sum()
    assert longest["labels"].dtype == torch.long and longest["token_type_ids"].shape == (4, 14)


def test_longest_batch_repeats_rows_when_there_are_too_few(
    film_reviews: Path, model_spec: Spec, encoder_tokenizer: Any
) -> None:
    data = prepared(film_reviews, model_spec(), encoder_tokenizer, max_train_rows=5)
    assert data.longest_batch(12)["input_ids"].shape[0] == 12


def test_models_that_do_not_look_at_token_types_get_none(
    film_reviews: Path, model_spec: Spec, encoder_tokenizer: Any
) -> None:
    data = prepared(film_reviews, model_spec(config={"model_type": "llama"}), encoder_tokenizer)
    assert set(data.longest_batch(2)) == {"input_ids", "attention_mask", "labels"}


def test_completions_pad_labels_with_the_ignored_one(
    write_jsonl: Callable[..., Path], model_spec: Spec, decoder_tokenizer: Any
) -> None:
    path = write_jsonl([{"prompt": "question", "completion": "yes " * (i % 7 + 1) + f"{i}"} for i in range(30)])
    data = prepared(path, model_spec("causal-lm"), decoder_tokenizer, max_seq_length=32)
    batch = data.collator([data.train_dataset[i] for i in range(8)])
    assert batch["labels"].shape == batch["input_ids"].shape
    assert (batch["labels"][batch["attention_mask"] == 0] == -100).all()
    assert (batch["labels"][:, :2] == -100).all()
    assert ((batch["labels"] != -100).sum(1) >= 2).all()
    assert data.pad_token_id == decoder_tokenizer.eos_token_id


def test_blocks_of_running_text(story: Path, model_spec: Spec, decoder_tokenizer: Any) -> None:
    data = prepared(story, model_spec("causal-lm"), decoder_tokenizer, max_eval_rows=3)
    assert not data.padded and data.label_names == ()
    assert len(data.eval_dataset) == 3
    batch = data.collator([data.train_dataset[0], data.train_dataset[1]])
    assert set(batch) == {"input_ids", "labels"}
    assert batch["input_ids"].shape == (2, 16) and torch.equal(batch["input_ids"], batch["labels"])
    few = prepared(story, model_spec("causal-lm"), decoder_tokenizer, max_train_rows=4)
    assert [few.train_dataset[i] for i in range(4)] == [data.train_dataset[i] for i in range(4)]


def test_documents_begin_and_end(write_jsonl: Callable[..., Path], model_spec: Spec, decoder_tokenizer: Any) -> None:
    path = write_jsonl([{"text": f"the film {'one ' * 5}"} for _ in range(1)] + [{"text": "a bad film"}] * 40)
    data = prepared(path, model_spec("causal-lm"), decoder_tokenizer, max_seq_length=8)
    tokens = [token for i in range(len(data.train_dataset)) for token in data.train_dataset[i]["input_ids"]]
    tokens += [token for i in range(len(data.eval_dataset)) for token in data.eval_dataset[i]["input_ids"]]
    begin, end = decoder_tokenizer.bos_token_id, decoder_tokenizer.eos_token_id
    assert abs(tokens.count(begin) - tokens.count(end)) <= 2
    assert tokens.count(begin) > 30


def test_masked_blocks(story: Path, model_spec: Spec, encoder_tokenizer: Any) -> None:
    data = prepared(story, model_spec("masked-lm"), encoder_tokenizer, max_seq_length=32)
    everything = range(len(data.train_dataset))
    batch = data.collator([data.train_dataset[i] for i in everything])
    again = data.collator([data.train_dataset[i] for i in everything])
    assert not torch.equal(batch["labels"], again["labels"]), "training masks are drawn anew"
    assert (batch["input_ids"][:, 0] == encoder_tokenizer.cls_token_id).all()
    assert (batch["input_ids"][:, -1] == encoder_tokenizer.sep_token_id).all()
    assert (batch["labels"][:, [0, -1]] == -100).all()
    share = (batch["labels"] != -100).float().sum() / (30 * len(everything))
    assert 0.1 < share < 0.2
    chosen = batch["labels"] != -100
    masked = (batch["input_ids"][chosen] == encoder_tokenizer.mask_token_id).float().mean()
    assert 0.65 < masked < 0.95


def test_held_out_blocks_are_masked_once_and_leave_the_random_state_alone(
    story: Path, model_spec: Spec, encoder_tokenizer: Any
) -> None:
    torch.manual_seed(1)
    first = prepared(story, model_spec("masked-lm"), encoder_tokenizer)
    drawn = torch.rand(1)
    torch.manual_seed(1)
    assert torch.equal(drawn, torch.rand(1))
    second = prepared(story, model_spec("masked-lm"), encoder_tokenizer)
    items = [first.eval_dataset[i] for i in range(len(first.eval_dataset))]
    assert items == [second.eval_dataset[i] for i in range(len(second.eval_dataset))]
    batch = first.collator(items[:4])
    assert batch["labels"].tolist() == [item["labels"] for item in items[:4]]
    before = torch.get_rng_state()
    first.longest_batch(4)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(
    ("changes", "max_seq_length", "told"),
    [
        ({"max_positions": 64}, 65, "at most the model's 64 positions, but got 65"),
        ({}, 4, "at least 8, but got 4"),
        ({"num_labels": 3}, 16, r"it has 3 and .* has 2 classes"),
    ],
)
def test_refusals(
    film_reviews: Path,
    model_spec: Spec,
    encoder_tokenizer: Any,
    changes: dict[str, Any],
    max_seq_length: int,
    told: str,
) -> None:
    with pytest.raises(DataError, match=told):
        prepared(film_reviews, model_spec(**changes), encoder_tokenizer, max_seq_length=max_seq_length)


def test_too_little_text_and_no_mask_token(
    tmp_path: Path, story: Path, model_spec: Spec, decoder_tokenizer: Any, encoder_tokenizer: Any
) -> None:
    (tmp_path / "short.txt").write_text("the film\n\na film")
    with pytest.raises(DataError, match=r"needs 14 tokens of text, but the (training|held-out) part of .* has 2"):
        prepared(tmp_path / "short.txt", model_spec("masked-lm"), encoder_tokenizer)
    with pytest.raises(DataError, match="mask token"):
        prepared(story, model_spec("masked-lm"), decoder_tokenizer)


def test_collators_can_be_sent_to_loader_workers(story: Path, model_spec: Spec, encoder_tokenizer: Any) -> None:
    data = prepared(story, model_spec("masked-lm"), encoder_tokenizer)
    copy = pickle.loads(pickle.dumps(data.collator))
    assert set(copy([data.train_dataset[0]])) == {"input_ids", "labels"}


def test_movie_sentences_come_out_fast_and_whole(minilm_dir: Path, movie_sentences: Path, model_spec: Spec) -> None:
    from transformers import AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(minilm_dir), model_spec(max_positions=512)
    spec = resolve_data(str(movie_sentences), task=model.task)
    profile = profile_data(spec, model, tokenizer)
    started_s = time.process_time()
    data = prepare_data(spec, model, tokenizer, max_seq_length=profile.max_seq_length)
    assert time.process_time() - started_s < 10, "10,000 sentences take about two seconds of one core"
    assert (len(data.train_dataset), len(data.eval_dataset)) == (profile.train_rows, profile.eval_rows) == (9064, 1008)
    assert data.train_dataset.lengths.max() <= profile.max_seq_length
    sentence = tokenizer.decode(data.train_dataset[0]["input_ids"], skip_special_tokens=True)
    assert len(sentence.split()) > 2


@pytest.mark.parametrize("task", ["sequence-classification", "masked-lm"])
def test_the_stock_trainer_takes_it(
    film_reviews: Path, story: Path, model_spec: Spec, encoder_tokenizer: Any, tmp_path: Path, task: Any
) -> None:
    from transformers import (
        BertConfig,
        BertForMaskedLM,
        BertForSequenceClassification,
        Trainer,
        TrainingArguments,
    )

    path = film_reviews if task == "sequence-classification" else story
    data = prepared(path, model_spec(task), encoder_tokenizer)
    config = BertConfig(
        vocab_size=64, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, num_labels=2
    )
    model = (BertForSequenceClassification if task == "sequence-classification" else BertForMaskedLM)(config)
    arguments = TrainingArguments(
        str(tmp_path), max_steps=3, per_device_train_batch_size=4, report_to=[], use_cpu=True, disable_tqdm=True
    )
    trainer = Trainer(
        model, arguments, data_collator=data.collator, train_dataset=data.train_dataset, eval_dataset=data.eval_dataset
    )
    assert np.isfinite(trainer.train().training_loss)
    assert trainer.evaluate()["eval_loss"] == pytest.approx(trainer.evaluate()["eval_loss"], rel=1e-6)
