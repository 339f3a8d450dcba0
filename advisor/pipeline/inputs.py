"""From what the user named to what the rooms below need: model, data, task."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from advisor.core.data import AS_DETECTED, DataProfile, DataSpec, Packing, ReadOptions
from advisor.core.errors import DataError, InputError
from advisor.core.memo import files_identity, recall
from advisor.core.model import ModelSpec
from advisor.core.serialization import from_dict, to_dict
from advisor.core.tasks import TASKS
from advisor.pipeline.events import OnEvent, note, phase

if TYPE_CHECKING:
    from advisor.core.strategy import StrategyConfig
    from advisor.strategies import Strategy
    from advisor.training.data.rows import RowKind


@dataclass(frozen=True)
class ModelSource:
    """A model as the user names it.

    Attributes:
        source: Folder, ``config.json``, GGUF file, hub id, or demo model.
        task: ``None`` takes what the data and the model's architecture say.
        trust_remote_code: Allow Python code that comes with the model.
        allow_pickle: Allow pickled weights.
        revision: Hub revision.
    """

    source: str
    task: str | None = None
    trust_remote_code: bool = False
    allow_pickle: bool = False
    revision: str | None = None


@dataclass(frozen=True)
class DataSource:
    """Training text as the user names it.

    Attributes:
        source: File, ``datasets`` folder, hub id, or demo data set.
        max_seq_length: Cut rows after so many tokens; ``None`` chooses from the measured lengths.
        eval_source: Separate held-out file or split; otherwise rows are held out.
        format: Name of the row format; ``None`` recognises it.
        reading: How to read files where what is detected is not meant.
        label_map: Pairs of a label and the class that it stands for.
        drop_labels: Rows of these classes are left out.
        drop_unlabelled: Leave out rows without a label instead of refusing them.
        packing: Whether documents that share a block see each other ; ``None``
            keeps them apart where the model can.
    """

    source: str
    text_column: str | None = None
    text_pair_column: str | None = None
    label_column: str | None = None
    split: str | None = None
    eval_source: str | None = None
    max_train_rows: int | None = None
    max_eval_rows: int | None = None
    max_seq_length: int | None = None
    format: str | None = None
    reading: ReadOptions = AS_DETECTED
    label_map: tuple[tuple[str, str], ...] = ()
    drop_labels: tuple[str, ...] = ()
    drop_unlabelled: bool = False
    packing: Packing | None = None

    @property
    def columns(self) -> dict[str, Any]:
        """Columns that are named, by option."""
        return {
            "text_column": self.text_column,
            "text_pair_column": self.text_pair_column,
            "label_column": self.label_column,
        }


@dataclass(frozen=True)
class Inputs:
    """Model and data, looked at and found usable together."""

    model: ModelSpec
    data: DataSpec
    profile: DataProfile


def load_inputs(model: str | ModelSource, data: str | DataSource, on_event: OnEvent | None = None) -> Inputs:
    """Inspect the model, read the data, and measure token lengths with the model's own tokenizer.

    Raises:
        ModelError: the model cannot be found, read, trusted or used for the task.
        DataError: the data cannot be found, read or used for the task.
    """
    from advisor.training.data import load_rows, resolve_data
    from advisor.training.data.profiling import data_findings
    from advisor.training.models import inspect_model, model_path

    model, data = as_model_source(model), as_data_source(data)
    task = task_of(model, data)
    phase(on_event, "reading the data")
    spec = resolve_data(
        data.source,
        task=task,
        **data.columns,
        format=data.format,
        reading=data.reading,
        label_map=data.label_map,
        drop_labels=data.drop_labels,
        drop_unlabelled=data.drop_unlabelled,
        split=data.split,
        eval_source=data.eval_source,
        max_train_rows=data.max_train_rows,
        max_eval_rows=data.max_eval_rows,
    )
    rows = load_rows(spec, task)
    for text in rows.notes:
        note(on_event, text)
    num_labels = max(2, rows.num_labels)
    phase(on_event, "inspecting the model")
    model_spec = inspect_model(
        model_path(model.source),
        task,
        num_labels=num_labels,
        trust_remote_code=model.trust_remote_code,
        allow_pickle=model.allow_pickle,
        revision=model.revision,
    )
    if model_spec.head_remark:
        note(on_event, model_spec.head_remark)
    spec = _with_packing(spec, rows.kind, model_spec, data.packing, on_event)
    phase(on_event, "measuring token lengths")
    profile, remarks = _measured(spec, model_spec, data.max_seq_length, on_event)
    for finding in (*remarks, *data_findings(profile)):
        note(on_event, finding)
    return Inputs(model_spec, spec, profile)


def _with_packing(
    spec: DataSpec, rows: RowKind, model: ModelSpec, asked: Packing | None, on_event: OnEvent | None
) -> DataSpec:
    """Whether documents that share a block see each other.

    Raises:
        DataError: nothing is packed, or the task or the model cannot keep documents apart.
    """
    from advisor.strategies.skeleton import separates_documents

    documents = rows == "text" and spec.kind != "text"
    if not documents and asked is not None:
        what = "one running text" if rows == "text" else "rows of their own"
        raise DataError(f"only documents are packed, but {spec.source} is {what}", fix="leave --packing out")
    if not documents or asked == "joined":
        return spec
    reason = ""
    if not model.traits.predicts_next_token:
        reason = f"{model.traits.title} reads a block as one text"
    elif not separates_documents(model):
        reason = f"the layers of {model.model_type} cannot be told where a document begins"
    if reason and asked == "separate":
        raise DataError(f"documents of a block must be kept apart, but {reason}", fix="pass --packing joined")
    if reason:
        note(on_event, f"documents that share a block see each other: {reason}")
        return spec
    note(on_event, "documents that share a block do not see each other (--packing joined makes it one text)")
    return replace(spec, separate_documents=True)


def _measured(
    spec: DataSpec, model: ModelSpec, max_seq_length: int | None, on_event: OnEvent | None
) -> tuple[DataProfile, list[str]]:
    """Sizes and token lengths, and what the chat template does to conversations.

    Of data and a tokenizer that were seen before they are kept, so that transformers need not be imported.

    Raises:
        DataError: the data cannot be used, or the length is beyond the model's positions.
        ModelError: the model has no tokenizer.
    """
    from advisor.training.data import load_rows, profile_data
    from advisor.training.data.records import stamp

    rows = load_rows(spec, model.task)
    if estimated := model.kind == "config":
        note(on_event, f"{model.source} has no tokenizer: token lengths are estimated from the text, within about 5 %")

    def measure() -> list[Any]:
        from advisor.training.data.conversations import template_findings
        from advisor.training.data.stand_in_tokenizer import stand_in_tokenizer
        from advisor.training.models import load_tokenizer

        tokenizer = stand_in_tokenizer(model) if estimated else load_tokenizer(model)
        profile = profile_data(spec, model, tokenizer, max_seq_length=max_seq_length)
        return [to_dict(profile), template_findings(rows.train, tokenizer)]

    if model.kind == "hub" or model.trust_remote_code:
        found, remarks = measure()
    else:
        files, task_code = files_identity(Path(model.source).expanduser()), TASKS.code_version(model.task)
        read = [to_dict(spec), stamp(spec), rows.fingerprint, rows.findings]
        key = [files, to_dict(model), task_code, read, max_seq_length]
        found, remarks = recall("data profile", key, measure)
    return from_dict(DataProfile, found, what="the profile of the data"), remarks


def inspect(model: str | ModelSource, *, task: str | None = None, num_labels: int = 2) -> ModelSpec:
    """Look at a model without any data."""
    from advisor.training.models import inspect_model, model_path

    model = as_model_source(model)
    return inspect_model(
        model_path(model.source),
        task or task_of(model),
        num_labels=num_labels,
        trust_remote_code=model.trust_remote_code,
        allow_pickle=model.allow_pickle,
        revision=model.revision,
    )


def as_model_source(model: str | ModelSource) -> ModelSource:
    """A bare name as a source with the defaults."""
    return model if isinstance(model, ModelSource) else ModelSource(str(model))


def as_data_source(data: str | DataSource) -> DataSource:
    """A bare name as a source with the defaults."""
    return data if isinstance(data, DataSource) else DataSource(str(data))


def task_of(model: ModelSource, data: DataSource | None = None) -> str:
    """The task that was named, or the one that data and architecture leave no doubt about.

    Raises:
        InputError: there is no such task, or nothing says what to train for.
        ModelError: the model's path does not exist.
    """
    from advisor.training.detection import choose_task

    if data is None:
        return choose_task(model.source, named=model.task)
    return choose_task(
        model.source,
        data.source,
        named=model.task,
        columns=data.columns,
        format=data.format,
        split=data.split,
        reading=data.reading,
        names_classes=bool(data.label_map or data.drop_labels),
    )


def check_strategy(strategy: Strategy, config: object, model: ModelSpec) -> None:
    """Refuse a configuration that does not fit the model, with all problems at once.

    Raises:
        InputError: the method does not apply to the model, or knobs are out of range.
    """
    from advisor.core.strategy import StrategyConfig

    if not isinstance(config, StrategyConfig):
        raise TypeError(f"config must be a StrategyConfig, but got {type(config).__name__}")
    config.check_task(model.traits)
    reason = strategy.applies_to(model)
    problems = [reason] if reason else strategy.problems(config, model)
    if problems:
        raise InputError(
            f"{config.method} must fit {model.source}, but does not",
            problems=problems,
            fix="change or leave out what is named above, or choose another --method",
        )


def tell_remarks(configs: Iterable[StrategyConfig], on_event: OnEvent | None) -> None:
    """Say what the strategies have to say about the configurations that are used."""
    from advisor.strategies import get_strategy

    for config in configs:
        for remark in get_strategy(config.method).remarks(config):
            note(on_event, remark)


def check_length(model: ModelSpec, max_seq_length: int) -> None:
    """Refuse sequences that are longer than the model's positions.

    Raises:
        DataError: they are.
    """
    if model.max_positions is not None and max_seq_length > model.max_positions:
        raise DataError(
            f"max_seq_length must be at most the {model.max_positions} positions of {model.source},"
            f" but got {max_seq_length}",
            fix=f"pass --max-seq-length {model.max_positions} or less",
        )
