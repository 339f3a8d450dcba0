"""A fitted probe on disk, and reading it again.

With the model's own pooling the classifier is the model's output layer: the folder is an ordinary model of
transformers. With mean pooling it is the encoder with its tokenizer, as transformers saves them, and beside them
``linear_probe.safetensors`` (``weight`` of shape (classes, width), ``bias``) and ``linear_probe.json``. No file is a
pickle.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from advisor.core.errors import ModelError
from advisor.core.serialization import from_dict, read_json, to_json
from advisor.core.store import write_text_atomically
from advisor.training.linear_probe.fitting import LinearHead, softmax

if TYPE_CHECKING:
    from torch import nn

WEIGHTS_FILE, FACTS_FILE = "linear_probe.safetensors", "linear_probe.json"
BATCH_ROWS = 32


@dataclass(frozen=True)
class SavedFacts:
    """``linear_probe.json``.

    Attributes:
        labels: Names of the classes, in the order of the weights.
        max_seq_length: Where rows were cut.
        pooling: How features are made of the last hidden states.
        format_version: Of both files.
    """

    labels: tuple[str, ...]
    max_seq_length: int
    pooling: str = "mean"
    format_version: int = 1


class ProbedEncoder:
    """An encoder and its classifier, as a run saves them.

    Args:
        encoder: A model of transformers without a head.
        head: Fitted to the mean over its last hidden states.
        facts: What a reader needs to know.
    """

    def __init__(self, encoder: nn.Module, head: LinearHead, facts: SavedFacts) -> None:
        self.config = encoder.config
        self._encoder, self._head, self._facts = encoder, head, facts

    def save_pretrained(self, directory: Path) -> None:
        """Write both into a folder."""
        from safetensors.numpy import save_file

        self._encoder.save_pretrained(directory)
        save_file({"weight": self._head.weight, "bias": self._head.bias}, Path(directory) / WEIGHTS_FILE)
        write_text_atomically(Path(directory) / FACTS_FILE, to_json(self._facts))


@dataclass(frozen=True)
class LoadedProbe:
    """A classifier of texts that was read from disk.

    Attributes:
        labels: Names of the classes.
    """

    labels: tuple[str, ...]
    _head: LinearHead
    _encoder: Any
    _tokenizer: Any
    _max_seq_length: int

    def features(self, texts: Sequence[str], pairs: Sequence[str] | None = None) -> NDArray[np.float32]:
        """Mean-pooled features, float32 of shape (texts, width)."""
        import torch

        found = []
        for start in range(0, len(texts), BATCH_ROWS):
            part = slice(start, start + BATCH_ROWS)
            batch = self._tokenizer(
                list(texts[part]),
                list(pairs[part]) if pairs is not None else None,
                truncation=True,
                max_length=self._max_seq_length,
                padding=True,
                return_tensors="pt",
            )
            with torch.no_grad():
                output = self._encoder(**batch)
            hidden = getattr(output, "encoder_last_hidden_state", None)
            hidden = hidden if hidden is not None else output[0]
            mask = batch["attention_mask"].unsqueeze(-1).to(hidden.dtype)
            found.append(((hidden * mask).sum(dim=1) / mask.sum(dim=1)).float().numpy())
        return np.concatenate(found)

    def probabilities(self, texts: Sequence[str], pairs: Sequence[str] | None = None) -> NDArray[np.float64]:
        """Of every class, shape (texts, classes)."""
        return softmax(self._head.scores(self.features(texts, pairs)))

    def predict(self, texts: Sequence[str], pairs: Sequence[str] | None = None) -> list[str]:
        """The likeliest class of every text."""
        return [self.labels[index] for index in self.probabilities(texts, pairs).argmax(axis=1)]


def load_linear_probe(folder: Path | str) -> LoadedProbe:
    """Read what a run with mean pooling saved in its ``model/`` folder.

    Raises:
        ModelError: the folder holds no such result, or it is damaged.
    """
    import transformers
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    folder = Path(folder)
    if not (folder / FACTS_FILE).is_file():
        raise ModelError(
            f"a saved linear probe must hold {FACTS_FILE}, but {folder} does not",
            fix="name the model/ folder of its run; with pooling own, load it with transformers as any other model",
        )
    facts = from_dict(
        SavedFacts,
        read_json(folder / FACTS_FILE, what="the probe", error=ModelError),
        what=FACTS_FILE,
        error=ModelError,
    )
    try:
        arrays = load_file(folder / WEIGHTS_FILE)
        head = LinearHead(arrays["weight"], arrays["bias"])
    except (SafetensorError, OSError, KeyError) as failure:
        raise ModelError(f"{folder / WEIGHTS_FILE} must hold a classifier, but it cannot be read: {failure}") from None
    return LoadedProbe(
        facts.labels,
        head,
        transformers.AutoModel.from_pretrained(folder).eval(),
        transformers.AutoTokenizer.from_pretrained(folder),
        facts.max_seq_length,
    )
