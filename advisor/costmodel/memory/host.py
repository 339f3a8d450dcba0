"""What a run on a CUDA card takes of the host's memory: loading, training, and saving."""

from __future__ import annotations

from dataclasses import dataclass

BASELINE_BYTES = 3 << 30
"""Resident set of a process that has imported torch with CUDA, transformers and peft, and has used the card once: 2 to
4 GiB, most of it CUDA's libraries. An assumption until a machine with a card was measured."""
SHARD_BYTES = 50 * 10**9
"""``save_pretrained`` writes shards of at most this size (transformers 5, ``max_shard_size``); safetensors 0.8 copies
all tensors of a shard to the host before it writes (``_flatten_as_ptr``)."""


@dataclass(frozen=True)
class HostNeeds:
    """Sizes that pass through the host's memory.

    Attributes:
        weights_bytes: The model's weights as they are built on the host and then moved; 0 where they are quantised on
            the card one tensor at a time.
        stored_bytes: Weights on disk: their pages are mapped while they are read.
        saved_bytes: What one checkpoint writes of the model.
        optimizer_bytes: Paged optimizer states, which the driver may move to the host.
        text_bytes: All texts of the data set.
    """

    weights_bytes: int
    stored_bytes: int
    saved_bytes: int
    optimizer_bytes: int = 0
    text_bytes: int = 0


def host_peak_bytes(needs: HostNeeds) -> int:
    """The largest of loading, training and saving; texts are read before the weights and stay."""
    loading = needs.weights_bytes + needs.stored_bytes
    saving = needs.optimizer_bytes + min(needs.saved_bytes, SHARD_BYTES)
    return BASELINE_BYTES + needs.text_bytes + max(loading, saving)
