"""What transformers says of an architecture's attention kernels, with and without building the model."""

from __future__ import annotations

import dataclasses

import pytest

from advisor.core.errors import ModelError
from advisor.core.model import ModelSpec
from advisor.strategies.skeleton import FLAGS, attention_implementations, build_skeleton, usual_attention
from tests.strategies.architectures import CONFIGS, spec_of


@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_the_class_says_the_same_as_the_built_model(name: str) -> None:
    spec = spec_of(name)
    skeleton = build_skeleton(spec)
    built = ("eager", *(kernel for kernel, flag in FLAGS.items() if getattr(skeleton, flag)))
    assert attention_implementations(spec) == built
    assert usual_attention(spec) == ("sdpa" if "sdpa" in built else "eager")


def test_an_architecture_without_such_a_head_is_refused_in_words() -> None:
    other: ModelSpec = dataclasses.replace(spec_of("bloom"), task="seq2seq-lm")
    with pytest.raises(ModelError, match="seq2seq-lm"):
        attention_implementations(other)
