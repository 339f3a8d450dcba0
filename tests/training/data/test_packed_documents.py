"""Documents that share a block: what a model sees of them, what counts in the loss, and who decides."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from advisor.core.errors import DataError, ModelError
from advisor.core.plan import ExecutionPlan
from advisor.pipeline.inputs import DataSource, ModelSource, load_inputs
from advisor.strategies.skeleton import separates_documents
from advisor.training.data.collators import BlockCollator
from advisor.training.data.encoding import BlockDataset
from advisor.training.data.packing import TokenStream, pack, require_separation
from tests.tracing.tiny import BUILDERS, tiny_spec
from tests.training.tasks.cases import word_tokenizer

NO_EDGES: tuple[list[int], list[int]] = ([], [])


def packed(lengths: list[int], block: int) -> list[dict[str, Any]]:
    """Blocks in the order of the text, whose tokens are 1, 2, 3, ..."""
    starts = np.cumsum([0, *lengths[:-1]])
    stream = TokenStream(np.arange(1, sum(lengths) + 1, dtype=np.int32), starts)
    blocks = pack(stream, NO_EDGES, max_seq_length=block, seed=0, limit=None, name="text")
    dataset = BlockDataset(blocks.ids, positions=blocks.positions)
    return sorted((dataset[i] for i in range(len(dataset))), key=lambda item: item["input_ids"][0])


def test_positions_begin_anew_at_every_document_and_block() -> None:
    first, second, third = packed([3, 6, 1, 2], 4)
    assert [first["input_ids"], second["input_ids"]] == [[1, 2, 3, 4], [5, 6, 7, 8]]
    assert first["position_ids"] == [0, 1, 2, 0]
    assert second["position_ids"] == [0, 1, 2, 3], "the rest of a document begins anew in the next block"
    assert third["position_ids"] == [0, 0, 0, 1]


def test_the_first_token_of_a_document_is_not_predicted() -> None:
    batch = BlockCollator()(packed([3, 6, 1, 2], 4))
    assert batch["labels"].tolist() == [[-100, 2, 3, -100], [-100, 6, 7, 8], [-100, -100, -100, 12]]
    assert set(batch) == {"input_ids", "position_ids", "labels"}


@pytest.mark.parametrize("name", ["llama", "gpt2", "gpt_bigcode", "mistral"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_the_loss_of_a_block_is_that_of_its_documents(name: str, attention: str) -> None:
    torch.manual_seed(0)
    config = BUILDERS[name]()
    config.use_cache = False
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation=attention).eval()
    documents = [torch.randint(2, 100, (length,)) for length in (5, 9, 2)]
    positions = torch.cat([torch.arange(len(ids)) for ids in documents])
    block = {"input_ids": torch.cat(documents).tolist(), "position_ids": positions.tolist()}
    with torch.no_grad():
        together = model(**BlockCollator()([block, block])).loss
        alone = [model(input_ids=ids[None], labels=ids[None]).loss * (len(ids) - 1) for ids in documents]
    assert together == pytest.approx(float(sum(alone)) / sum(len(ids) - 1 for ids in documents), rel=1e-5)


@pytest.mark.parametrize(
    ("name", "can"), [("llama", True), ("gpt2", True), ("gemma2", True), ("mamba", False), ("bloom", False)]
)
def test_which_architectures_keep_documents_apart(name: str, can: bool, tmp_path: Path) -> None:
    config = BUILDERS[name]() if name in BUILDERS else transformers.AutoConfig.for_model(name, num_hidden_layers=2)
    path = tmp_path / "config.json"
    path.write_text(config.to_json_string(use_diff=False))
    from advisor.training.models import inspect_model

    assert separates_documents(inspect_model(str(path), "causal-lm")) is can


def test_a_model_that_sees_the_other_document_is_refused() -> None:
    config = BUILDERS["llama"]()
    model = transformers.AutoModelForCausalLM.from_config(config)
    model.config.use_cache = True  # with which transformers does not look for packed sequences
    ids = list(range(2, 40))
    with pytest.raises(ModelError, match="scores a document otherwise behind another one"):
        require_separation(model, ids, "llama")
    model.config.use_cache = False
    require_separation(model.train(), ids, "llama")
    assert model.training


@pytest.mark.parametrize(
    ("knobs", "rule"),
    [({"attn_implementation": "flash_attention_2"}, "by sdpa or eager"), ({"padded": True}, "without a padding mask")],
)
def test_executions_that_cannot_keep_documents_apart(knobs: dict[str, Any], rule: str) -> None:
    with pytest.raises(ValueError, match=rule):
        ExecutionPlan(4, **{"padded": False, "separate_documents": True, **knobs})


@pytest.fixture
def inputs(tmp_path: Path) -> Callable[..., Any]:
    """A tiny model, and documents as JSON lines or one running text; returns data spec, profile and what was said."""

    def look(model: str = "llama", task: str = "causal-lm", *, running: bool = False, **options: Any) -> Any:
        spec = tiny_spec(model, task, tmp_path)
        folder = tmp_path / "model"
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps(spec.config))
        word_tokenizer().save_pretrained(folder)
        texts = [f"the good film {i % 10} in London" for i in range(300)]
        data = tmp_path / ("story.txt" if running else "documents.jsonl")
        data.write_text("\n\n".join(texts) if running else "".join(json.dumps({"text": t}) + "\n" for t in texts))
        said: list[str] = []
        found = load_inputs(
            ModelSource(str(folder), task=task),
            DataSource(str(data), **options),
            lambda event: said.append(str(event)),
        )
        return found.data, found.profile, " ".join(said)

    return look


def test_documents_are_kept_apart_unless_the_user_joins_them(inputs: Callable[..., Any], tmp_path: Path) -> None:
    data, profile, said = inputs()
    assert data.separate_documents and profile.separate_documents and not profile.padded
    assert "do not see each other" in said


@pytest.mark.parametrize(
    "options",
    [{"packing": "joined"}, {"running": True}, {"model": "roberta", "task": "masked-lm"}],
    ids=["joined", "running text", "masked-lm"],
)
def test_one_text_stays_one_text(inputs: Callable[..., Any], options: dict[str, Any]) -> None:
    data, profile, _ = inputs(**options)
    assert not data.separate_documents and not profile.separate_documents


@pytest.mark.parametrize(
    ("options", "rule"),
    [
        ({"running": True, "packing": "separate"}, "only documents are packed, but .* is one running text"),
        ({"model": "roberta", "task": "masked-lm", "packing": "separate"}, "must be kept apart, but"),
    ],
)
def test_what_cannot_be_kept_apart_is_refused(inputs: Callable[..., Any], options: dict[str, Any], rule: str) -> None:
    with pytest.raises(DataError, match=rule):
        inputs(**options)
