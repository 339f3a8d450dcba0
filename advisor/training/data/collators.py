"""Batches for the stock Trainer. The collators can be pickled, so that loader workers can use them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from advisor.core.data import padded_length
from advisor.training.data.encoding import IGNORED_LABEL


class PaddingCollator:
    """Pads rows on the right to the longest of the batch, rounded up to a multiple of 8 but never beyond the limit.

    Args:
        pad_token_id: Fills ``input_ids``.
        max_seq_length: No batch is longer.
        float_labels: Labels are numbers of a row (or one per label), not a class or one per token.
    """

    def __init__(self, pad_token_id: int, max_seq_length: int, *, float_labels: bool = False) -> None:
        self.pad_token_id = pad_token_id
        self.max_seq_length = max_seq_length
        self.float_labels = float_labels

    def __call__(self, features: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Rows as tensors: ``input_ids``, ``attention_mask`` and the like [rows, length]; class ``labels`` [rows]."""
        lengths = [len(feature["input_ids"]) for feature in features]
        longest = max(lengths)
        if isinstance(features[0].get("labels"), list) and not self.float_labels:
            longest = max(longest, *(len(feature["labels"]) for feature in features))
        width = max(longest, min(padded_length(longest), self.max_seq_length))
        batch = {
            "input_ids": self._padded(features, "input_ids", width, self.pad_token_id),
            "attention_mask": torch.tensor([[1] * length + [0] * (width - length) for length in lengths]),
        }
        if "token_type_ids" in features[0]:
            batch["token_type_ids"] = self._padded(features, "token_type_ids", width, 0)
        if "labels" in features[0]:
            labelled_tokens = isinstance(features[0]["labels"], list) and not self.float_labels
            dtype = torch.float32 if self.float_labels else torch.long
            batch["labels"] = (
                self._padded(features, "labels", width, IGNORED_LABEL)
                if labelled_tokens
                else torch.tensor([feature["labels"] for feature in features], dtype=dtype)
            )
        return batch

    @staticmethod
    def _padded(features: Sequence[dict[str, Any]], key: str, width: int, filler: int) -> torch.Tensor:
        rows = [feature[key] + [filler] * (width - len(feature[key])) for feature in features]
        return torch.tensor(rows, dtype=torch.long)


class PairCollator:
    """Prompts with their chosen answers, then the same prompts with the rejected ones, as TRL's ``DPOTrainer`` takes
    them: twice as many rows as there are pairs. Padded as by ``PaddingCollator``.

    Args:
        pad_token_id: Fills ``input_ids``.
        max_seq_length: No batch is longer.
    """

    def __init__(self, pad_token_id: int, max_seq_length: int) -> None:
        self.pad_token_id = pad_token_id
        self.max_seq_length = max_seq_length

    def __call__(self, features: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """``input_ids``, ``attention_mask`` and ``completion_mask`` (1 where an answer is), all [2 pairs, length]."""
        sides = [(f["prompt_ids"], f[side]) for side in ("chosen_ids", "rejected_ids") for f in features]
        longest = max(len(prompt) + len(answer) for prompt, answer in sides)
        width = max(longest, min(padded_length(longest), self.max_seq_length))
        rows: dict[str, list[list[int]]] = {"input_ids": [], "attention_mask": [], "completion_mask": []}
        for prompt, answer in sides:
            rest = width - len(prompt) - len(answer)
            rows["input_ids"].append([*prompt, *answer, *[self.pad_token_id] * rest])
            rows["attention_mask"].append([1] * (width - rest) + [0] * rest)
            rows["completion_mask"].append([0] * len(prompt) + [1] * len(answer) + [0] * rest)
        return {name: torch.tensor(values, dtype=torch.long) for name, values in rows.items()}


class BlockCollator:
    """Stacks equally long blocks. No attention mask, because there is no padding.

    Args:
        masking: transformers' ``DataCollatorForLanguageModeling`` for masked-lm, which masks anew in every epoch;
            blocks that bring labels (held-out ones, masked once) are left as they are. ``None`` for causal-lm, where
            the labels are the tokens themselves.
    """

    def __init__(self, masking: Any | None = None) -> None:
        self.masking = masking

    def __call__(self, features: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Blocks as tensors: ``input_ids`` and ``labels``, both [blocks, length].

        Blocks of several documents bring ``position_ids`` [blocks, length] as well: models keep apart what begins anew
        in them. The first token of a document then follows from nothing, and does not count.
        """
        if "labels" not in features[0] and self.masking is not None:
            masked = self.masking([{"input_ids": feature["input_ids"]} for feature in features])
            return {"input_ids": masked["input_ids"], "labels": masked["labels"]}
        input_ids = torch.tensor([feature["input_ids"] for feature in features], dtype=torch.long)
        if "position_ids" in features[0]:
            positions = torch.tensor([feature["position_ids"] for feature in features], dtype=torch.long)
            labels = input_ids.masked_fill(positions == 0, IGNORED_LABEL)
            return {"input_ids": input_ids, "position_ids": positions, "labels": labels}
        if "labels" not in features[0]:
            return {"input_ids": input_ids, "labels": input_ids.clone()}
        return {"input_ids": input_ids, "labels": torch.tensor([f["labels"] for f in features], dtype=torch.long)}
