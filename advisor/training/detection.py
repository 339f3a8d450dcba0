"""Which task is meant: where the user names none, model and data are looked at, not loaded."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import get_args

from advisor.core.data import ReadOptions
from advisor.core.errors import DataError, InputError, ModelError
from advisor.core.serialization import read_json
from advisor.core.tasks import TASKS
from advisor.training.data.formats import Doubt
from advisor.training.data.resolving import first_look
from advisor.training.data.rows import LABEL_KINDS, RowKind
from advisor.training.models import model_path, source_kind
from advisor.training.tasks import DataLook, FirstLook, get_task, task_names


def choose_task(
    model: str,
    data: str | None = None,
    *,
    named: str | None = None,
    columns: Mapping[str, str | None] | None = None,
    format: str | None = None,
    split: str | None = None,
    reading: ReadOptions | None = None,
    names_classes: bool = False,
) -> str:
    """The task that was named, or the one that data and architecture leave no doubt about.

    Labels mean classification; conversations and prompts mean causal language modelling, and pairs of answers learning
    from preferences; plain text is modelled the way the architecture was pre-trained.

    Args:
        model: Folder, ``config.json``, GGUF file, hub id or demo model.
        data: File, folder, hub id or registered data set; ``None`` when there is none.
        named: By the user.
        columns: Named by the user, by option.
        format: Row format that the user named.
        split: Training split that the user named.
        reading: How the user wants files read.
        names_classes: The user renames labels, or leaves some out: they are classes, also where they are numbers.

    Raises:
        InputError: there is no such task or format, or nothing says what to train for.
        ModelError: the model's path does not exist.
    """
    path = model_path(model)
    source_kind(path)
    if named is not None:
        return get_task(named).name
    causal, sequence_to_sequence = _pretraining(path)
    seen = None if data is None else _look_at_data(data, columns or {}, format, split, reading, causal)
    seen = "labelled" if names_classes and seen == "scored" else seen
    look = FirstLook(causal, sequence_to_sequence, seen)
    for name in task_names():
        if get_task(name).suits(look):
            return name
    raise InputError(
        f"the task must be known, but neither the data nor {model} says what to train for",
        fix=f"pass --task {', --task '.join(TASKS.names())}",
    )


_LOOKS: dict[RowKind, DataLook] = {
    "labelled": "labelled",
    "multi-labelled": "multi-labelled",
    "scored": "scored",
    "tagged": "tagged",
    "source-target": "table",
    "conversation": "conversations",
    "completion": "conversations",
    "answer-pair": "preferences",
    "text": "text",
}


def _look_at_data(
    source: str,
    columns: Mapping[str, str | None],
    format: str | None,
    split: str | None,
    reading: ReadOptions | None,
    causal: bool | None,
) -> DataLook:
    """What the data shows. A text among other columns is certain for decoders only: they do not need a label.

    For other models the columns beside it are looked at once more: they may be a label each, or numbers.
    """
    named_label = columns.get("label_column") is not None and format is None
    kinds = LABEL_KINDS if named_label else get_args(RowKind)
    look_again = partial(first_look, source, columns, format=format, split=split, reading=reading)
    try:
        found = look_again(kinds=kinds)
        if found is not None:
            row_format, is_whole = found
            look = _LOOKS[row_format.kind]
            if look != "text" or is_whole or causal:
                return look
        found = look_again(kinds=LABEL_KINDS, most_doubt=Doubt.SOME)
    except DataError:  # said when the data is read
        found = None
    return _LOOKS[found[0].kind] if found is not None else "labelled" if named_label else "table"


def _pretraining(source: str) -> tuple[bool | None, bool]:
    """Whether the architecture was pre-trained to predict the next token (``None``: nothing here says so), and whether
    to write one text from another (``T5ForConditionalGeneration``).
    """
    path = Path(source).expanduser()
    if path.suffix == ".gguf":
        return True, False
    config_file = path / "config.json" if path.is_dir() else path
    if not config_file.is_file():
        return None, False
    config = read_json(config_file, what="the model's config.json", error=ModelError)
    if not isinstance(config, dict):
        return None, False
    listed = config.get("architectures")
    names = [str(name) for name in listed] if isinstance(listed, list) else []
    causal = any(name.endswith(("ForCausalLM", "LMHeadModel")) for name in names) if names else None
    pairs = bool(config.get("is_encoder_decoder"))
    return causal, pairs and any(name.endswith("ForConditionalGeneration") for name in names)
