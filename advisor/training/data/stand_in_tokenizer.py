"""A tokenizer for models of which only the configuration is here: right lengths, meaningless ids.

It cuts text at spaces and punctuation and long words into pieces. Against real tokenizers on the demo texts (movie
sentences and Wikipedia) the mean number of tokens came out within a few percent of BERT's WordPiece and SmolLM2's
byte-pair encoding; ``tests/training/data/test_stand_in_tokenizer.py`` measures it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from advisor.core.model import ModelSpec

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PIECE_CHARACTERS = 7
"""Longest piece of a word: chosen among 4 to 10 on the demo texts, where it comes closest to both tokenizers."""


def stand_in_tokenizer(spec: ModelSpec) -> PreTrainedTokenizerBase:
    """A fast tokenizer with special tokens placed as the task's architectures place them."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    special = {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "[MASK]": 4}
    tokenizer = Tokenizer(models.WordLevel(special, unk_token="[UNK]"))
    pieces = pre_tokenizers.Split(Regex(f".{{1,{PIECE_CHARACTERS}}}"), "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.BertPreTokenizer(), pieces])
    if not (spec.traits.predicts_next_token or spec.traits.learns_preferences):
        tokenizer.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]",
            pair="[CLS] $A [SEP] $B [SEP]",
            special_tokens=[("[CLS]", special["[CLS]"]), ("[SEP]", special["[SEP]"])],
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        eos_token="[SEP]",
    )
