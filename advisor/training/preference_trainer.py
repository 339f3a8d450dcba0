"""TRL's ``DPOTrainer`` with this package's rows, order of rows, evaluation and reference model."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from datasets import Dataset
from torch import nn
from torch.nn import functional
from transformers import PreTrainedTokenizerBase, TrainingArguments
from trl import DPOConfig, DPOTrainer

from advisor.training.arguments import pin_to_one_device
from advisor.training.data.encoding import IGNORED_LABEL
from advisor.training.preferences import BETA, frozen_copy, scores_without_adapter
from advisor.training.sampling import OrderingTrainer


class PreferenceTrainer(OrderingTrainer, DPOTrainer):
    """Its loss, its metrics along the way and its training step are TRL's, untouched.

    Different from TRL: rows come tokenised; a new adapter needs no second one as its reference, since the model without
    it is the model before training; adapters keep the data type of the plan; checkpointing stays as the model has it;
    evaluation keeps four numbers a pair; nothing is reported to anybody, and no model card is written.

    Args:
        model: As ``build_model`` makes it.
        args: As ``training_arguments`` makes them.
        reference: The model before training where ``model`` is trained already; a frozen copy otherwise, and none where
            the model has an adapter.
    """

    def __init__(
        self,
        model: nn.Module,
        args: TrainingArguments,
        *,
        data_collator: Any,
        train_dataset: Any,
        eval_dataset: Any = None,
        processing_class: Any = None,
        compute_loss_func: Any = None,
        compute_metrics: Any = None,
        preprocess_logits_for_metrics: Any = None,
        callbacks: Any = None,
        optimizers: Any = (None, None),
        reference: nn.Module | None = None,
    ) -> None:
        if compute_loss_func is not None:
            raise TypeError("the loss of pairs of answers is TRL's own")
        trained = [(parameter, parameter.data) for parameter in model.parameters() if parameter.requires_grad]
        # Given a model with an adapter and no reference, TRL would copy the adapter.
        ref_model = _Nothing(model) if scores_without_adapter(model) else reference or frozen_copy(model)
        stand_in = Dataset.from_list([{"prompt_ids": [0], "chosen_ids": [0], "rejected_ids": [0]}])
        super().__init__(
            model=model,
            ref_model=ref_model,
            args=_dpo_config(args),
            data_collator=data_collator,
            train_dataset=stand_in,
            eval_dataset=stand_in,
            processing_class=processing_class or _no_tokenizer(),
            compute_metrics=compute_metrics,
            callbacks=callbacks,
            optimizers=optimizers,
        )
        self.train_dataset, self.eval_dataset = train_dataset, eval_dataset
        self.processing_class = self.callback_handler.processing_class = processing_class
        self.preprocess_logits_for_metrics = preprocess_logits_for_metrics
        if isinstance(ref_model, _Nothing):
            self.ref_model = None
        for parameter, values in trained:  # of adapters on 4-bit weights TRL makes bfloat16
            parameter.data = values
        base = model.get_base_model() if scores_without_adapter(model) else model
        base.gradient_checkpointing_disable = base.gradient_checkpointing_enable = _leave

    def _prepare_dataset(self, dataset: Any, *args: Any, **kwargs: Any) -> Any:
        return dataset

    def _send_telemetry(self) -> None:
        pass

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        pass

    def evaluate(self, eval_dataset: Any = None, *args: Any, **kwargs: Any) -> dict[str, float]:
        figures: dict[str, float] = super().evaluate(eval_dataset, *args, **kwargs)
        return figures

    def prediction_step(
        self, model: Any, inputs: dict[str, Any], prediction_loss_only: bool, ignore_keys: list[str] | None = None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The loss; per pair the log-probabilities of the chosen and the rejected answer, then both before training;
        and that the first is preferred.
        """
        inputs = self._prepare_inputs(inputs)
        labels = inputs["input_ids"].masked_fill(inputs["completion_mask"] == 0, IGNORED_LABEL)
        rows = {name: inputs[name] for name in ("input_ids", "attention_mask")}
        with torch.no_grad(), self.compute_loss_context_manager():
            by_token = model(**rows, labels=labels, use_cache=False, fused_lm_head=True).log_probs
            now = by_token[:, 1 - labels.shape[1] :].sum(dim=1)  # without the places of a learned prompt
            before = torch.cat(self.compute_ref_log_probs(self.ref_model or model, inputs))
        kept = torch.stack([*now.chunk(2), *before.chunk(2)], dim=1).float()
        margins = self.beta * ((kept[:, 0] - kept[:, 2]) - (kept[:, 1] - kept[:, 3]))
        return -functional.logsigmoid(margins).mean(), kept, torch.ones(len(kept), device=kept.device)


class _Nothing(nn.Module):
    """In the place of a reference model while the Trainer is made."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.config = model.config

    def forward(self) -> None:
        pass


def _leave(*args: Any, **kwargs: Any) -> None:
    """TRL switches checkpointing off for the reference pass, which it costs nothing, and on again with its own options
    (inputs that require gradients among them): it stays as the plan has it.
    """


def _dpo_config(arguments: TrainingArguments) -> DPOConfig:
    """The same arguments with DPO's own beside them, which are TRL's defaults."""
    values = {field.name: getattr(arguments, field.name) for field in dataclasses.fields(arguments) if field.init}
    config = DPOConfig(**values, beta=BETA, max_length=None, precompute_ref_log_probs=False)
    pin_to_one_device(config)
    return config


def _no_tokenizer() -> PreTrainedTokenizerBase:
    """TRL asks for a tokenizer with a token for padding, also where rows are tokens already."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel({"[PAD]": 0}, unk_token="[PAD]")), pad_token="[PAD]"
    )
