"""What a task means to the rooms below and beside training.

A task lives in ``advisor.training.tasks``, one file each: its data, its batches, its metrics. Building a model,
adapting it and predicting its cost need only facts about it, and need them without the code that trains. These facts
are the task's ``TaskTraits``. ``ModelSpec`` names its task, and ``ModelSpec.traits`` looks the traits up here.

The registry loads the built-in tasks as it loads those of other packages, which add them with entry points in the group
``advisor.tasks``: from the name of a module. So this file knows where they are and imports nothing of them.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from advisor.core.metrics import Metric
from advisor.core.registry import Registry

Comparisons = Literal["classification", "generation", "language-modelling"]
"""Kinds of published comparisons of methods."""


@dataclass(frozen=True)
class TaskTraits:
    """Facts about a task.

    Attributes:
        name: In the registry, and ``ModelSpec.task``.
        title: How it is called in prose.
        metric: What a recommendation is ranked on and a study searches.
        loss: What is minimised, in prose.
        auto_class: The class that puts the head on a backbone: a name in transformers, or ``module:name``.
        peft_task_type: As in ``peft.TaskType``; ``None`` where PEFT has none and a plain ``PeftModel`` serves.
        comparisons: Which published comparisons of methods tell something about it; ``None``: none do.
        new_head: The head is new, has ``num_labels`` outputs, and always trains. Otherwise it is the pretrained one.
        num_outputs: Of a new head, where labels do not decide it.
        float_labels: Labels are float32 numbers, one per output of a row.
        config_values: What is set in the model's configuration.
        needs_pad_token: Rows are told from their padding by its token, so that a model without one gets one.
        predicts_next_token: A decoder's own task: losses over its output projection and writing token by token exist.
        accepts_loss_kwargs: The model divides its loss by the items of the whole batch, if it is told how many there
            are; other losses are means over a micro-batch.
        masks_anew: Other tokens of a row are hidden in each epoch.
        packs_text: Running text comes in full blocks, without padding and mask.
        keeps_token_logits: Evaluation holds the scores of every token of its batch.
        projects_to_vocabulary: The output has one score per entry of the vocabulary, whose table is multiplied with;
            otherwise embeddings are only looked up.
        one_class_per_row: Every row has one class and the head gives one score a class, so that a linear classifier on
            features of the rows can do the task.
        weighs_classes: Classes of rows, words or labels can be weighted in the loss by how rare they are.
        learns_preferences: Rows are pairs of answers, which make two rows of a batch each. Both are also scored by the
            model as it was before training: by the model itself without its adapter, or else by a frozen copy.
        serves_as: The task whose forward pass a trained model makes when it is used, where that is another than the one
            it was trained by.
        learning_rate_factor: By which its learning rates are usually those of supervised training.
        trainer_package: What trains it and is no dependency of this package, as pip takes it; predicting needs none.
        extra: That installs it, as in ``pip install "finetune-advisor[EXTRA]"``.
        writes_texts: The model answers a row with a text, which is measured as it writes it, token by token.
        predicted_only: Why the task cannot be trained, only predicted; empty where it can.
    """

    name: str
    title: str
    metric: Metric
    auto_class: str
    loss: str = "cross-entropy"
    peft_task_type: str | None = None
    comparisons: Comparisons | None = None
    new_head: bool = False
    num_outputs: int | None = None
    float_labels: bool = False
    config_values: Mapping[str, Any] = field(default_factory=dict)
    needs_pad_token: bool = False
    predicts_next_token: bool = False
    accepts_loss_kwargs: bool = False
    masks_anew: bool = False
    packs_text: bool = False
    keeps_token_logits: bool = True
    projects_to_vocabulary: bool = True
    one_class_per_row: bool = False
    weighs_classes: bool = False
    writes_texts: bool = False
    learns_preferences: bool = False
    serves_as: str = ""
    learning_rate_factor: float = 1.0
    trainer_package: str = ""
    extra: str = ""
    predicted_only: str = ""


class RegisteredTask:
    """What the registry holds. Everything else about a task is ``advisor.training.tasks.Task``."""

    traits: TaskTraits

    @property
    def name(self) -> str:
        return self.traits.name


_BUILT_IN = (
    "sequence_classification:SequenceClassification",
    "causal_lm:CausalLM",
    "masked_lm:MaskedLM",
    "multi_label_classification:MultiLabelClassification",
    "text_regression:TextRegression",
    "token_classification:TokenClassification",
    "seq2seq_lm:Seq2SeqLM",
    "dpo:DPO",
)


def _built_in() -> Iterator[RegisteredTask]:
    for place in _BUILT_IN:
        yield pkgutil.resolve_name(f"advisor.training.tasks.{place}")()


TASKS: Registry[RegisteredTask] = Registry("advisor.tasks", "task", RegisteredTask, _built_in)


def task_names() -> tuple[str, ...]:
    """All registered tasks, the built-in ones first."""
    return TASKS.names()


def task_traits(name: str) -> TaskTraits:
    """The facts about a task.

    Raises:
        InputError: there is no such task, with near matches.
    """
    return TASKS.get(name).traits
