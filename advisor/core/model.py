"""What is known of a model without loading its weights."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from advisor.core.serialization import LATER
from advisor.core.tasks import TaskTraits, task_traits

Task: TypeAlias = str
"""The name of a task (``advisor.core.tasks``)."""

SourceKind = Literal["folder", "config", "hub", "gguf"]


@dataclass(frozen=True)
class ModelSpec:
    """A model as the cost model sees it; weights are not needed.

    Attributes:
        source: What the user named: a folder, a config.json, a hub id, or a GGUF file.
        kind: How to read ``source``.
        task: What it is trained for: the name of a registered task, which decides its head.
        config: The parsed ``config.json`` (with ``num_labels`` of the task set).
        model_type: ``config["model_type"]``.
        total_parameters: Of backbone and head, tied weights counted once.
        hidden_size: Width of the residual stream.
        num_hidden_layers: Depth.
        vocab_size: Rows of the embedding.
        max_positions: Longest sequence the positions allow; ``None`` when unbounded.
        num_labels: Classes of the head, where the task has any.
        has_weights: Whether weights can be loaded from ``source``.
        weights_bytes: Size of the stored weights on disk; 0 when unknown.
        trust_remote_code: The user allowed the model's own Python code.
        allow_pickle: The user allowed pickled weights.
        revision: Hub revision: the commit where it is known, else as it was named.
        fingerprints: Hashes of local files by part (``advisor.training.fingerprints``); empty in older files.
        head_remark: What becomes of the checkpoint's own head where the task needs another one; else empty.
    """

    source: str
    kind: SourceKind
    task: Task
    config: dict[str, Any]
    model_type: str
    total_parameters: int
    hidden_size: int
    num_hidden_layers: int
    vocab_size: int
    max_positions: int | None
    num_labels: int = 2
    has_weights: bool = False
    weights_bytes: int = 0
    trust_remote_code: bool = False
    allow_pickle: bool = False
    revision: str | None = None
    fingerprints: dict[str, str] = field(default_factory=dict)
    head_remark: str = field(default="", metadata=LATER)

    @property
    def has_dropout(self) -> bool:
        """Whether the configuration names any share of dropout above zero."""
        shares = [value for name, value in self.config.items() if "drop" in name and isinstance(value, int | float)]
        return any(share > 0 for share in shares)

    @property
    def traits(self) -> TaskTraits:
        """What its task means for its head, its batches and its cost.

        Raises:
            InputError: the task is not registered here: the package that brings it is not installed.
        """
        return task_traits(self.task)
