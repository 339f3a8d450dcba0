"""Which task is meant: where the user names none, model and data are looked at, not loaded."""

from __future__ import annotations

import json
from pathlib import Path

from advisor.core.errors import InputError
from advisor.core.tasks import TASKS
from advisor.training.data.named import DATASETS
from advisor.training.data.resolving import LABEL_COLUMNS
from advisor.training.data.rows import CONVERSATION_COLUMN
from advisor.training.models import model_path, source_kind
from advisor.training.tasks import DataLook, FirstLook, get_task, task_names

TEXT_SUFFIXES = (".txt", ".md", ".text")
PROMPTED = {"prompt", "completion"}
"""Columns of rows that are learned as a conversation is."""


def choose_task(
    model: str, data: str | None = None, *, named: str | None = None, label_column: str | None = None
) -> str:
    """The task that was named, or the one that data and architecture leave no doubt about.

    Labels mean classification; conversations and prompts mean causal language modelling; plain text is modelled the way
    the architecture was pre-trained.

    Args:
        model: Folder, ``config.json``, GGUF file, hub id or demo model.
        data: File, folder, hub id or registered data set; ``None`` when there is none.
        named: By the user.
        label_column: Named by the user.

    Raises:
        InputError: there is no such task, or nothing says what to train for.
        ModelError: the model's path does not exist.
    """
    path = model_path(model)
    source_kind(path)
    if named is not None:
        return get_task(named).name
    look = FirstLook(
        causal=_is_causal(path),
        sequence_to_sequence=_is_sequence_to_sequence(path),
        data=None if data is None else _look_at_data(data, label_column),
    )
    for name in task_names():
        if get_task(name).suits(look):
            return name
    raise InputError(
        f"the task must be known, but neither the data nor {model} says what to train for",
        fix=f"pass --task {', --task '.join(TASKS.names())}",
    )


def _look_at_data(source: str, label_column: str | None) -> DataLook:
    named = DATASETS.get(source) if source in DATASETS else None
    columns = set(named.columns) if named is not None else _first_keys(Path(source))
    if label_column is not None or (named is not None and columns & set(LABEL_COLUMNS)):
        return "labelled"
    if CONVERSATION_COLUMN in columns or columns >= PROMPTED:
        return "conversations"
    return "text" if named is not None or Path(source).suffix in TEXT_SUFFIXES else "table"


def _first_keys(path: Path) -> set[str]:
    """Keys of the first row of a JSONL file; none of anything else."""
    if path.suffix not in (".jsonl", ".json") or not path.is_file():
        return set()
    try:
        with path.open(encoding="utf-8") as stream:
            row = json.loads(stream.readline())
    except (OSError, ValueError):
        return set()
    return set(row) if isinstance(row, dict) else set()


def _is_causal(source: str) -> bool | None:
    """Whether the architecture was pre-trained to predict the next token; ``None`` when nothing here says so."""
    if Path(source).suffix == ".gguf":
        return True
    names = _architectures(source)
    return any(name.endswith(("ForCausalLM", "LMHeadModel")) for name in names) if names else None


def _is_sequence_to_sequence(source: str) -> bool:
    """Whether the architecture was pre-trained to write one text from another (``T5ForConditionalGeneration``)."""
    return any(name.endswith("ForConditionalGeneration") for name in _architectures(source, "is_encoder_decoder"))


def _architectures(source: str, only_if: str | None = None) -> list[str]:
    """Class names in the configuration here; none when there is no configuration, or it does not set ``only_if``."""
    path = Path(source).expanduser()
    config_file = path / "config.json" if path.is_dir() else path
    try:
        config = json.loads(config_file.read_text(encoding="utf-8"))
        names = [str(name) for name in config.get("architectures") or []]
    except (OSError, ValueError, AttributeError):
        return []
    return names if only_if is None or config.get(only_if) else []
