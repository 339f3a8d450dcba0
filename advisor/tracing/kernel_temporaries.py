"""Memory that CUDA kernels take and return within one call: a dispatch trace cannot see it.

Sizes are read from the kernels' sources (aten/src/ATen/native/transformers/cuda, native/cuda/Embedding.cu, Reduce.cuh
and SoftMax.cu) and from bitsandbytes' dispatch of ``gemm_4bit``; each rule names its threshold, because symbolic sizes
re-evaluate it per point.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

EMBEDDING_SORT_THRESHOLD = 3072
"""``embedding_dense_backward`` uses one block up to this many indices and sorts beyond (Embedding.cu)."""

TILE_TOKENS = 4096
"""Largest number of rows of a tile of logits (``TOKEN_CHUNK_SIZE`` of ``trl.kernels.chunked_logprob``)."""
TILE = "tile"
"""Rule of a tensor that has a row for every token of a tile."""

GEMM_4BIT_ROW_THRESHOLD = 256
"""Above this many rows bitsandbytes de-quantises the weight and calls a plain matrix product."""


REDUCTION_THREADS = 512
"""Threads of a block that adds up, over the outputs that one thread holds (``mnt_wrapper`` in Reduce.cuh)."""
VALUES_PER_THREAD = (16, 256)
"""Least and most values that a thread adds up before the work is split over more blocks (``setReduceConfig``)."""


@dataclass(frozen=True)
class Multiprocessors:
    """Of a GPU: how many blocks of a kernel it runs at a time.

    Attributes:
        count: An A100's unless it is known.
        threads: That one of them holds.
    """

    count: int = 108
    threads: int = 2048

    @classmethod
    def of(cls, count: int | None, capability: tuple[int, int] | None) -> Multiprocessors:
        """Of a card; threads are those of the CUDA C++ Programming Guide (technical specifications per capability)."""
        by_capability = {(7, 5): 1024, (8, 6): 1536, (8, 7): 1536, (8, 9): 1536, (12, 0): 1536}
        return cls(count or cls.count, by_capability.get(capability or (8, 0), cls.threads))


A100 = Multiprocessors()


@dataclass(frozen=True)
class KernelCall:
    """A call whose kernel takes memory of its own, as integers: no tensor is kept alive by it.

    Attributes:
        rule: Name in ``RULES``.
        sizes: Tensor dimensions that the rule needs; functions of the batch shape.
    """

    rule: str
    sizes: tuple[int, ...]


def kernel_call(name: str, args: Any, kwargs: Any, out: Any, *, on_host: bool) -> KernelCall | None:
    """What the rule of this operator needs, or ``None`` for an operator without hidden memory."""
    if on_host:
        return _cpu_call(name, args, kwargs)
    if name == "_scaled_dot_product_flash_attention_backward":
        query, key = args[1], args[2]
        groups = int(query.shape[1] != key.shape[1])
        return KernelCall(name, (*(int(n) for n in query.shape), int(key.shape[2]), groups, query.element_size()))
    if name == "_scaled_dot_product_efficient_attention_backward":
        query = args[1]
        return KernelCall(name, (*(int(n) for n in query.shape), query.element_size()))
    if name == "_flash_attention_backward":
        return _flash_package_call(args[1], args[2], args[6])
    if name == "embedding_dense_backward":
        return KernelCall(name, (int(args[1].numel()), *(int(n) for n in out.shape)))
    if name == "_softmax_backward_data":
        return KernelCall(name, (int(args[0].numel()), args[0].element_size()))
    if name == "sum" and _sums_rows(args[0], args[1:]):
        return KernelCall(SUM_OF_ROWS, (int(args[0].numel()), int(out.numel()), int(args[0].shape[-1])))
    if name == "gemm_4bit":
        activations, shape = args[0], args[2]
        nested = kwargs.get("absmax_8bit") is not None or (len(args) > 7 and args[7] is not None)
        rows = int(activations.numel() // activations.shape[-1])
        return KernelCall(name, (rows, int(shape[0]), int(shape[1]), activations.element_size(), int(nested)))
    return None


def _sums_rows(values: Any, rest: Sequence[Any]) -> bool:
    """Whether a sum of floating-point values runs over some dimensions, but not over the last, which is contiguous."""
    if not rest or not isinstance(rest[0], list | tuple) or not rest[0] or not values.is_floating_point():
        return False
    last = values.dim() - 1
    return last > 0 and values.stride(-1) == 1 and last not in [dim % values.dim() for dim in rest[0]]


def _cpu_call(name: str, args: Any, kwargs: Any) -> KernelCall | None:
    """On a CPU only the 4-bit product has memory of its own, whatever its shape (bitsandbytes, backends/default)."""
    if name != "gemm_4bit":
        return None
    activations, shape = args[0], args[2]
    nested = kwargs.get("absmax_8bit") is not None or (len(args) > 7 and args[7] is not None)
    return KernelCall("gemm_4bit_cpu", (int(shape[0]), int(shape[1]), activations.element_size(), int(nested)))


def _flash_package_call(query: Any, key: Any, starts: Any) -> KernelCall:
    """Of (batch, length, heads, width) tensors, or of (tokens, heads, width) ones with the rows' starts."""
    heads, width, item_bytes = int(query.shape[-2]), int(query.shape[-1]), query.element_size()
    groups = int(heads != key.shape[-2])
    if query.dim() == 3:
        sizes = (int(starts.shape[0]) - 1, heads, int(query.shape[0]), width, int(key.shape[0]), groups, item_bytes)
        return KernelCall("_flash_attention_backward_varlen", sizes)
    batch, length = int(query.shape[0]), int(query.shape[1])
    return KernelCall("_flash_attention_backward", (batch, heads, length, width, int(key.shape[1]), groups, item_bytes))


def hidden_bytes(rule: str, sizes: Sequence[int], card: Multiprocessors = A100) -> tuple[int, ...]:
    """Bytes of each allocation inside one call; as many as the rule has slots, 0 where a threshold leaves one out."""
    return RULES_OF_CARDS[rule](card, *sizes) if rule in RULES_OF_CARDS else RULES[rule](*sizes)


def _round_up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple


def _flash_backward(
    batch: int, heads: int, length: int, width: int, key_length: int, grouped: int, item_bytes: int
) -> tuple[int, ...]:
    """softmax_d, the fp32 dq accumulator, and with fewer key heads dk and dv of every head (flash_api.cpp, mha_bwd)."""
    rows = batch * heads * _round_up(length, 128)
    expanded = grouped * batch * key_length * heads * width * item_bytes
    return rows * 4, rows * _round_up(width, 32) * 4, expanded, expanded


def _flash_backward_varlen(
    batch: int, heads: int, tokens: int, width: int, key_tokens: int, grouped: int, item_bytes: int
) -> tuple[int, ...]:
    """The same over rows without padding (flash_api.cpp, mha_varlen_bwd): 128 spare tokens for each row."""
    rows = heads * (tokens + 128 * batch)
    expanded = grouped * key_tokens * heads * width * item_bytes
    return rows * 4, rows * _round_up(width, 32) * 4, expanded, expanded


def _efficient_backward(batch: int, heads: int, length: int, width: int, item_bytes: int) -> tuple[int, ...]:
    """Delta and the fp32 gradient accumulator, whose blocks of 64 rows each have a lock (kernel_backward.h)."""
    accumulated = _round_up(length, 64) if item_bytes < 4 else length
    locks = 16 * -(-length // 64)
    return batch * heads * length * 4, batch * heads * (4 * accumulated * width + locks)


def _softmax_backward(elements: int, item_bytes: int) -> tuple[int, ...]:
    """The gradient times the output (SoftMax.cu, ``softmax_backward_cuda_out``)."""
    return (elements * item_bytes,)


def _embedding_backward(indices: int, rows: int, width: int) -> tuple[int, ...]:
    """Sorted indices, their origins, counts and partial segments once the indices are many."""
    if indices <= EMBEDDING_SORT_THRESHOLD:
        return 0, 0, 0, 0
    segments = (indices // 10 + min(indices, rows)) * _round_up(width, 32) * 4
    return 8 * indices, 8 * indices, 16 * indices, segments


def _gemm_4bit(rows: int, outputs: int, inputs: int, item_bytes: int, nested: int) -> tuple[int, ...]:
    """The de-quantised weight, and its block statistics (one per 64 weights) when those are quantised too."""
    if rows <= GEMM_4BIT_ROW_THRESHOLD:
        return 0, 0, 0
    block_statistics = 4 * outputs * inputs // 64 if nested else 0
    return block_statistics, block_statistics, outputs * inputs * item_bytes


def _gemm_4bit_cpu(outputs: int, inputs: int, item_bytes: int, nested: int) -> tuple[int, ...]:
    """Block statistics and the de-quantised weight."""
    return (4 * outputs * inputs // 64 if nested else 0), outputs * inputs * item_bytes


def _tile(tokens: int, row_bytes: int) -> tuple[int, ...]:
    return (min(tokens, TILE_TOKENS) * row_bytes,)


def _sum_of_rows(card: Multiprocessors, elements: int, outputs: int, width: int) -> tuple[int, ...]:
    """Partial sums, and one semaphore per column of blocks, once many rows are split over blocks (Reduce.cuh).

    A block has a slot for every output of every of its threads in a row, four times as many as are used; partial sums
    are float32. The gradient of a bias of 768 over 4,096 rows takes twice the bytes of its input.
    """
    rows, vector = elements // outputs, next(n for n in (4, 2, 1) if width % n == 0)
    most, columns = REDUCTION_THREADS // vector, outputs // vector
    across, down = (min(_power_of_two_below(n), most) for n in (columns, rows))
    height = min(down, most // min(across, 32))
    block = min(across, most // height)
    fewest, fullest = VALUES_PER_THREAD
    grid, values = -(-columns // block), -(-rows // height)
    at_a_time = card.count * (card.threads // (block * height))
    if rows < min(16 * height, fullest) or values < fullest or grid > at_a_time:
        return 0, 0
    blocks = max(-(-values // fullest), min(-(-at_a_time // grid), -(-values // fewest)))
    return (4 * outputs * blocks * block * vector, 4 * grid) if blocks > 1 else (0, 0)


def _power_of_two_below(value: int) -> int:
    return 1 << max(0, value.bit_length() - 1)


SUM_OF_ROWS = "sum"
RULES_OF_CARDS: dict[str, Callable[..., tuple[int, ...]]] = {SUM_OF_ROWS: _sum_of_rows}
"""Rules that need to know the card; ``RULES`` do not."""
BEHIND_OUTPUTS = frozenset(
    {
        SUM_OF_ROWS,
        "_softmax_backward_data",
        "_scaled_dot_product_flash_attention_backward",
        "_flash_attention_backward",
        "_flash_attention_backward_varlen",
        "_scaled_dot_product_efficient_attention_backward",
    }
)
"""Rules whose kernels have allocated their outputs before."""
RULES: dict[str, Callable[..., tuple[int, ...]]] = {
    "_scaled_dot_product_flash_attention_backward": _flash_backward,
    "_flash_attention_backward": _flash_backward,
    "_flash_attention_backward_varlen": _flash_backward_varlen,
    "_scaled_dot_product_efficient_attention_backward": _efficient_backward,
    "_softmax_backward_data": _softmax_backward,
    "embedding_dense_backward": _embedding_backward,
    "gemm_4bit": _gemm_4bit,
    "gemm_4bit_cpu": _gemm_4bit_cpu,
    TILE: _tile,
}
