"""Memory that kernels take within one call, against what torch's own allocator was asked for (calibration/phantom)."""

from __future__ import annotations

import pytest

from advisor.tracing.kernel_temporaries import SUM_OF_ROWS, Multiprocessors, hidden_bytes

RTX_4090 = Multiprocessors.of(128, (8, 9))
T4 = Multiprocessors.of(40, (7, 5))


@pytest.mark.parametrize(
    ("rows", "width", "card", "expected"),
    [
        (4096, 768, RTX_4090, (25165824, 24)),
        (4096, 3072, RTX_4090, (100663296, 96)),
        (1024, 768, RTX_4090, (6291456, 24)),
        (1023, 768, RTX_4090, (6291456, 24)),
        (1000, 768, RTX_4090, (0, 0)),
        (8192, 768, T4, (21233664, 24)),
    ],
)
def test_gradients_of_biases_take_partial_sums(
    rows: int, width: int, card: Multiprocessors, expected: tuple[int, int]
) -> None:
    """Recorded for DistilBERT at 32 x 128 tokens; on a T4, with few multiprocessors, at 16 x 512."""
    assert hidden_bytes(SUM_OF_ROWS, (rows * width, width, width), card) == expected


def test_small_cards_take_less() -> None:
    sizes = (16384 * 3072, 3072, 3072)
    assert hidden_bytes(SUM_OF_ROWS, sizes, T4)[0] < hidden_bytes(SUM_OF_ROWS, sizes, RTX_4090)[0]


def test_attention_without_flash_locks_its_blocks() -> None:
    """32 rows of 12 heads, 128 tokens wide 64: recorded as 12,595,200 bytes beside the row sums of 196,608."""
    assert hidden_bytes("_scaled_dot_product_efficient_attention_backward", (32, 12, 128, 64, 4)) == (196608, 12595200)
