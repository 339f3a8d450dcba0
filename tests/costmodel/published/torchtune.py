"""torchtune's published peak of Llama 3.2 3B, full fine-tuning on an A100-80GB.

github.com/pytorch/torchtune, README: the table adds one feature per row; the second ("+ packed dataset", 2 x 4,096
tokens, bf16, AdamW, nothing recomputed) is the only one that plain PyTorch ran. Left out: the first (unpacked, lengths
not stated), all later rows (torch.compile, chunked cross-entropy, optimizer in backward, offloading), and the tables of
other models, which were compiled or whose lengths are not stated.
"""

from __future__ import annotations

import json

from tests.costmodel.published.encoders import CONFIGS
from tests.costmodel.published.figures import GIB, Figure

LLAMA_32_3B = json.loads((CONFIGS / "llama-3.2-1b.json").read_text(encoding="utf-8")) | {
    "hidden_size": 3072,
    "num_hidden_layers": 28,
    "num_attention_heads": 24,
    "head_dim": 128,
}
PACKED = [
    Figure(
        label="Llama 3.2 3B full, packed, 2 x 4096",
        measured_bytes=60.0 * GIB,
        model=LLAMA_32_3B,
        method="full",
        knobs={"max_grad_norm": 0.0},
        batch=2,
        length=4096,
        execution={"dtype": "bfloat16", "padded": False, "optim": "adamw_torch_fused", "hold_outputs": True},
    )
]
