"""From what the user named to what the rooms below need: model, data, task."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from advisor.core.data import DataProfile, DataSpec
from advisor.core.errors import DataError, InputError
from advisor.core.model import TASKS, ModelSpec, Task
from advisor.pipeline.events import OnEvent, note, phase

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from advisor.strategies import Strategy


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
    task: Task | None = None
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
    from advisor.training.data import load_rows, profile_data, resolve_data
    from advisor.training.models import inspect_model

    model, data = as_model_source(model), as_data_source(data)
    task = resolve_task(model, data)
    phase(on_event, "reading the data")
    spec = resolve_data(
        data.source,
        task=task,
        text_column=data.text_column,
        text_pair_column=data.text_pair_column,
        label_column=data.label_column,
        split=data.split,
        eval_source=data.eval_source,
        max_train_rows=data.max_train_rows,
        max_eval_rows=data.max_eval_rows,
    )
    num_labels = max(2, len(load_rows(spec, task).label_names))
    phase(on_event, "looking at the model")
    model_spec = inspect_model(
        model_path(model.source),
        task,
        num_labels=num_labels,
        trust_remote_code=model.trust_remote_code,
        allow_pickle=model.allow_pickle,
        revision=model.revision,
    )
    phase(on_event, "measuring token lengths")
    profile = profile_data(spec, model_spec, _tokenizer(model_spec, on_event), max_seq_length=data.max_seq_length)
    for finding in data_findings(profile):
        note(on_event, finding)
    return Inputs(model_spec, spec, profile)


def _tokenizer(model: ModelSpec, on_event: OnEvent | None) -> PreTrainedTokenizerBase:
    """The model's own, or one that only measures lengths where nothing but a configuration is here."""
    from advisor.training.data.stand_in_tokenizer import stand_in_tokenizer
    from advisor.training.models import load_tokenizer

    if model.kind != "config":
        return load_tokenizer(model)
    note(on_event, f"{model.source} has no tokenizer: token lengths are estimated from the text, within about 5 %")
    return stand_in_tokenizer(model)


def inspect(model: str | ModelSource, *, task: Task | None = None, num_labels: int = 2) -> ModelSpec:
    """Look at a model without any data."""
    from advisor.training.models import inspect_model

    model = as_model_source(model)
    return inspect_model(
        model_path(model.source),
        task or model.task or resolve_task(model, None),
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


def model_path(source: str) -> str:
    """The folder of a demo model, when one is named and nothing of that name lies here; else the source itself."""
    from advisor.training.data.asset_catalog import ASSETS
    from advisor.training.data.assets import asset_path

    if source in ASSETS and ASSETS[source].kind == "model" and not Path(source).exists():
        return str(asset_path(source))
    return source


def resolve_task(model: ModelSource, data: DataSource | None) -> Task:
    """The task that was named, or the one that data and architecture leave no doubt about.

    Labels mean classification; conversations and prompts mean causal language modelling; plain text is modelled the way
    the architecture was pre-trained.

    Raises:
        InputError: nothing says what to train for.
        ModelError: the model's path does not exist.
    """
    from advisor.training.models import source_kind

    source_kind(model_path(model.source))
    if model.task is not None:
        return model.task
    if data is not None and _is_labelled(data):
        return "sequence-classification"
    if data is None and _is_sequence_to_sequence(model_path(model.source)):
        return "seq2seq-lm"
    causal = _is_causal(model_path(model.source))
    if data is not None and _is_conversation(Path(data.source)):
        return "causal-lm"
    if data is not None and not _is_plain_text(data):
        return "sequence-classification"
    if causal is None:
        raise InputError(
            f"the task must be known, but neither the data nor {model.source} says what to train for",
            fix=f"pass --task {', --task '.join(TASKS)}",
        )
    if data is not None:
        return "causal-lm" if causal else "masked-lm"
    return "causal-lm" if causal else "sequence-classification"


def _is_labelled(data: DataSource) -> bool:
    from advisor.training.data.asset_catalog import ASSETS

    asset = ASSETS.get(data.source)
    return data.label_column is not None or (asset is not None and "label" in asset.columns)


def _is_plain_text(data: DataSource) -> bool:
    from advisor.training.data.asset_catalog import ASSETS

    asset = ASSETS.get(data.source)
    return Path(data.source).suffix in (".txt", ".md", ".text") or (asset is not None and "label" not in asset.columns)


def _is_conversation(path: Path) -> bool:
    if path.suffix not in (".jsonl", ".json") or not path.is_file():
        return False
    try:
        with path.open(encoding="utf-8") as stream:
            row = json.loads(stream.readline())
    except (OSError, ValueError):
        return False
    return isinstance(row, dict) and ("messages" in row or {"prompt", "completion"} <= row.keys())


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


def check_strategy(strategy: Strategy, config: object, model: ModelSpec) -> None:
    """Refuse a configuration that does not fit the model, with all problems at once.

    Raises:
        InputError: the method does not apply to the model, or knobs are out of range.
    """
    from advisor.core.strategy import StrategyConfig

    if not isinstance(config, StrategyConfig):
        raise TypeError(f"config must be a StrategyConfig, but got {type(config).__name__}")
    reason = strategy.applies_to(model)
    problems = [reason] if reason else strategy.problems(config, model)
    if problems:
        raise InputError(f"{config.method} must fit {model.source}, but does not", problems=problems)


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


def data_findings(profile: DataProfile) -> list[str]:
    """What cleaning found, in words; empty when there is nothing to say."""
    counted = {
        "empty rows were dropped": profile.empty_rows,
        "rows occur more than once in the training split": profile.duplicate_rows,
        "training rows also in the held-out split were dropped": profile.cross_split_duplicates,
        f"training rows are cut at {profile.max_seq_length} tokens": profile.truncated_rows,
    }
    findings = [f"{count} {text}" for text, count in counted.items() if count]
    share = profile.majority_share
    if share is not None and share > 0.9:
        findings.append(f"{share:.0%} of the training rows have one label: accuracy alone says little here")
    return findings
