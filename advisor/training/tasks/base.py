"""What every task implements: data, batches, loss and metrics beside its traits.

Importing a task imports neither torch nor transformers: methods import what they need.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from advisor.core.data import DataSpec
from advisor.core.errors import InputError
from advisor.core.metrics import Metric
from advisor.core.model import ModelSpec
from advisor.core.strategy import StrategyConfig
from advisor.core.tasks import RegisteredTask
from advisor.training.data.rows import Row, RowKind, Rows
from advisor.training.data.rules import DataRules, Edges
from advisor.training.data.tables import Table

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray
    from torch import nn
    from transformers import EvalPrediction, Trainer

    from advisor.training.data.encoding import EncodedRow

DataLook = Literal["labelled", "multi-labelled", "scored", "tagged", "conversations", "preferences", "text", "table"]
"""What a data set looks like from outside: a column of classes, of several labels, of numbers, or of tags of words is
known, rows are conversations or prompts with completions, or pairs of answers, it is running text, or some other
table."""


@dataclass(frozen=True)
class FirstLook:
    """What model and data show before anything is loaded.

    Attributes:
        causal: Whether the architecture was pre-trained to predict the next token; ``None`` when nothing says so.
        sequence_to_sequence: Whether it was pre-trained to write one text from another.
        data: ``None`` without data.
    """

    causal: bool | None
    sequence_to_sequence: bool
    data: DataLook | None


class Task(RegisteredTask, DataRules):
    """A task: what a model is trained for.

    Call order of a run: ``suits`` (where the user named no task) -> ``with_columns`` -> ``read_rows`` ->
    ``check_model`` -> ``encode`` -> ``collator`` -> training with ``compute_loss_func`` -> ``reduce_logits`` on every
    evaluation batch -> ``compute_metrics`` on all of them -> ``predictions``, from which ``metrics`` are computed. The
    cost model calls ``batch_shapes`` and ``compute_loss_func`` on fake tensors, so the loss must not read their values.
    Instances hold no state.

    The defaults are those of a language model that reads plain text and predicts each label where it stands. A task of
    another package states its ``traits`` and overrides what differs, of these or of a built-in task.
    """

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """What is reported beside the held-out loss: by ``compute_metrics`` along the way, and of the final model also
        those that can be computed from its ``predictions``.
        """
        return (self.traits.metric,)

    def for_labels(self, names: Sequence[str]) -> Task:
        """The task as it measures classes of these names; itself where the names mean nothing to it."""
        return self

    def suits(self, look: FirstLook) -> bool:
        """Whether this task is meant when the user names none. Built-in tasks are asked first."""
        return False

    def check_model(self, spec: ModelSpec, skeleton: nn.Module) -> None:
        """Refuse a model that has the head, but cannot do the task.

        Args:
            spec: As far as it is known.
            skeleton: The model on the meta device.

        Raises:
            ModelError: it cannot.
        """

    def require_trainer(self) -> None:
        """Refuse to train where the package that does it is missing.

        Raises:
            InputError: it is not installed, or another version of it is.
        """
        if not self.traits.trainer_package:
            return
        from importlib import metadata

        from packaging.requirements import Requirement

        wanted = Requirement(self.traits.trainer_package)
        try:
            found = metadata.version(wanted.name)
        except metadata.PackageNotFoundError:
            found = ""
        if not found or not wanted.specifier.contains(found, prereleases=True):
            raise InputError(
                f"{self.traits.title} (task {self.name}) is trained with {wanted}, but"
                f" {f'{wanted.name} {found}' if found else 'it'} is {'' if found else 'not '}installed",
                fix=f'pip install "finetune-advisor[{self.traits.extra}]"; predictions need none of it',
            )

    # --- data -----------------------------------------------------------------------------------------------------

    row_kinds: tuple[RowKind, ...] = ("text",)

    def row_kind(self, spec: DataSpec) -> RowKind:
        """The one that its format makes; older plans without a format have the first kind."""
        if spec.format is None:
            return self.row_kinds[0]
        from advisor.training.data.formats import FORMATS

        return FORMATS.get(spec.format).kind

    def with_columns(self, spec: DataSpec, table: Table | None) -> DataSpec:
        from advisor.training.data.recognising import with_format

        return with_format(spec, table, self.row_kinds, self.name)

    def read_rows(self, spec: DataSpec) -> Rows:
        from advisor.training.data.loading import rows_of_kind

        return rows_of_kind(spec, self.row_kind(spec))

    def encode(
        self, rows: Sequence[Row], tokenizer: Any, *, max_seq_length: int | None, token_types: bool = False
    ) -> Iterator[EncodedRow]:
        from advisor.training.data.encoding import encode

        return encode(rows, tokenizer, max_seq_length=max_seq_length, token_types=token_types)

    def collator(self, pad_token_id: int, max_seq_length: int) -> Any:
        from advisor.training.data.collators import PaddingCollator

        return PaddingCollator(pad_token_id, max_seq_length, float_labels=self.traits.float_labels)

    def document_edges(self, tokenizer: Any) -> Edges:
        return [], []

    def block_edges(self, tokenizer: Any) -> Edges:
        return [], []

    def masking(self, tokenizer: Any) -> Any | None:
        return None

    # --- batches without data -------------------------------------------------------------------------------------

    def batch_shapes(self, spec: ModelSpec, rows: int, seq_length: int, *, padded: bool) -> dict[str, tuple[int, ...]]:
        """Which tensors the collator puts into a batch, and their shapes: all int64, but for ``float_labels``.

        Args:
            spec: Decides whether there are ``token_type_ids``.
            rows: Micro-batch size.
            seq_length: Padded length in tokens; a sequence-to-sequence target is as long as its source.
            padded: Without padding, packed text comes without a mask.

        Returns:
            ``input_ids`` and ``labels``, and unless packed ``attention_mask`` and, for models with two segments,
            ``token_type_ids``.
        """
        full = (rows, seq_length)
        shapes: dict[str, tuple[int, ...]] = {"input_ids": full}
        if padded or not self.traits.packs_text:
            shapes["attention_mask"] = full
            if int(spec.config.get("type_vocab_size") or 0) > 1:
                # Tokenizers of two-segment models (BERT) hand these over too.
                shapes["token_type_ids"] = full
        return shapes | {"labels": self.label_shape(spec, rows, seq_length)}

    def label_shape(self, spec: ModelSpec, rows: int, seq_length: int) -> tuple[int, ...]:
        """Of a batch's labels: one per token."""
        return (rows, seq_length)

    def random_labels(
        self, spec: ModelSpec, tokens: torch.Tensor, mask: torch.Tensor, generator: torch.Generator
    ) -> torch.Tensor:
        """Labels of random tokens.

        Args:
            spec: Number of labels.
            tokens: Token ids, shape (rows, seq_length).
            mask: 0 where a token is padding, same shape.
            generator: To draw from.

        Returns:
            Labels of ``label_shape``.
        """
        from advisor.training.tasks.reduction import without_padding

        return without_padding(tokens, mask)

    # --- loss and metrics -----------------------------------------------------------------------------------------

    def compute_loss_func(self) -> Callable[..., torch.Tensor] | None:
        """As in ``transformers.Trainer``: the loss of the model's outputs, the labels and ``num_items_in_batch`` (the
        labels of the whole batch that count, ``None`` outside of training). ``None`` takes the model's own loss.
        """
        return None

    def loss_func_of(self, spec: ModelSpec, strategy: StrategyConfig) -> Callable[..., torch.Tensor] | None:
        """The loss of a strategy's steps on made-up rows: where it weighs classes, the weights are made up, too."""
        if strategy.class_weights == "none":
            return self.compute_loss_func()
        import numpy as np

        return self.weighted_loss_func(np.eye(spec.num_labels), spec.num_labels)

    def weighted_loss_func(self, labels: NDArray[Any], num_labels: int) -> Callable[..., torch.Tensor]:
        """As ``compute_loss_func``, with every class weighted by its inverse frequency; of tasks whose traits say
        ``weighs_classes``. The default is a cross-entropy over class indices.

        Args:
            labels: Of all training rows, or of all their tokens; those below 0 do not count.
            num_labels: Scores that the head gives.
        """
        from advisor.training.class_weights import balanced_weights, weighted_cross_entropy

        return weighted_cross_entropy(balanced_weights(labels, num_labels))

    def trainer_class(self, reference: nn.Module | None = None) -> Callable[..., Trainer] | None:
        """Makes the Trainer, of the arguments that ``transformers.Trainer`` takes; ``None``: it is the stock one.

        Args:
            reference: The model before training, of a task whose traits say ``learns_preferences``, where the model
                that will be evaluated has been trained; otherwise it is the model as it is.
        """
        return None

    def reduce_logits(self, logits: Any, labels: torch.Tensor) -> torch.Tensor:
        """What is kept of an evaluation batch, as ``Trainer(preprocess_logits_for_metrics=...)`` wants it.

        Returns:
            float32, shape (rows, columns): a few numbers a row, whatever the vocabulary.
        """
        from advisor.training.tasks.reduction import first_output, reduce_tokens

        return reduce_tokens(first_output(logits), labels)

    def compute_metrics(self, prediction: EvalPrediction) -> dict[str, float]:
        """Figures of all kept rows after an evaluation: ``nll``, the mean loss per item in nats, and what of
        ``metrics`` can be summed up from them.
        """
        from advisor.training.tasks.reduction import token_figures

        return token_figures(prediction)

    def written_columns(self, spec: DataSpec, written: Sequence[str | None], rows: Sequence[Row]) -> dict[str, Any]:
        """Scores of texts that the model wrote from held-out rows, by item; of tasks whose traits say
        ``writes_texts``.

        Args:
            spec: Of the data.
            written: ``None`` where there was no time for it.
            rows: That they were written from.

        Returns:
            Columns as in ``predictions``.

        Raises:
            ImportError: a package that scores texts is not installed.
        """
        return {}

    def predictions(self, prediction: EvalPrediction, tokenizer: Any = None) -> Mapping[str, NDArray[Any]]:
        """The kept rows as columns, one entry per held-out item: what metrics are computed from, and what a run keeps
        so that runs can be compared item by item.

        Args:
            prediction: What ``reduce_logits`` kept of all batches, and their labels.
            tokenizer: The model's own, where there is one, for columns of text.

        Returns:
            Columns by the names of ``advisor.core.metrics`` (``LABEL``, ``PREDICTED``, ``PROBABILITY``; ``NLL_SUM``,
            ``TOKENS``, ``HITS``), or others that the task's own metrics take: arrays of shape (items,), (items, k), or
            of objects (lists or texts).
        """
        from advisor.training.tasks.reduction import token_columns

        return token_columns(prediction)
