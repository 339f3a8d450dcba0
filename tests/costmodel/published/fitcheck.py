"""Memory that fitcheck-llm measured on a Tesla T4: allocated, reserved, and the process as NVML lists it.

fitcheck-llm 0.3.1 (PyPI, MIT), ``data/measurements`` of its sdist: its own loop of forward, backward and step with
PEFT, float16 weights, checkpointing, no autocast, the outputs alive until the backward pass is over; NF4 without double
quantisation after ``prepare_model_for_kbit_training``. Figures only. Its reserve has the history of its loading.
"""

from __future__ import annotations

from tests.costmodel.published.figures import MIB, Figure
from tests.costmodel.published.steps_of_other_cards import MODELS

CONTEXT_BYTES = round(140.875 * MIB)
"""As the source states it: process minus reserved, in every row."""
_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj")
_T4 = (
    ("mistral-7b-v0.3", "qlora", 16, "eager", 1, 1024, 6190.6, 6740, 6880.9),
    ("mistral-7b-v0.3", "qlora", 16, "sdpa", 1, 1024, 6056.3, 6400, 6540.9),
    ("qwen2.5-7b", "qlora", 16, "sdpa", 1, 1024, 10585.8, 11880, 12020.9),
    ("llama-3.2-1b", "qlora", 16, "sdpa", 1, 1024, 3723.1, 4026, 4166.9),
    ("qwen2.5-1.5b", "lora", 32, "eager", 1, 2048, 7410.3, 8122, 8262.9),
    ("smollm2-1.7b", "qlora", 32, "eager", 1, 2048, 4323.0, 4820, 4960.9),
    ("smollm2-1.7b", "lora", 32, "sdpa", 1, 2048, 4977.0, 5398, 5538.9),
    ("tinyllama-1.1b", "qlora", 32, "sdpa", 12, 1024, 9371.7, 11258, 11398.9),
    ("tinyllama-1.1b", "qlora", 32, "eager", 4, 1024, 4589.6, 6172, 6312.9),
    ("tinyllama-1.1b", "qlora", 32, "sdpa", 8, 1024, 6631.7, 8038, 8178.9),
    ("tinyllama-1.1b", "qlora", 32, "eager", 2, 2048, 6655.0, 7640, 7781.0),
    ("tinyllama-1.1b", "qlora", 32, "sdpa", 2, 2048, 3897.0, 4640, 4781.0),
    ("qwen2.5-1.5b", "qlora", 32, "eager", 2, 1024, 6831.0, 7372, 7513.0),
    ("qwen2.5-1.5b", "lora", 32, "eager", 2, 1024, 7405.8, 7910, 8050.9),
    ("smollm2-1.7b", "qlora", 32, "eager", 4, 1024, 5297.3, 6996, 7136.9),
    ("smollm2-1.7b", "lora", 32, "eager", 4, 1024, 6536.7, 7734, 7874.9),
    ("smollm2-1.7b", "qlora", 32, "sdpa", 4, 1024, 5281.3, 5940, 6080.9),
    ("smollm2-1.7b", "lora", 32, "sdpa", 4, 1024, 6528.7, 7094, 7234.9),
    ("smollm2-135m", "qlora", 32, "eager", 1, 4096, 3679.3, 5224, 5364.9),
    ("smollm2-135m", "lora", 32, "sdpa", 1, 4096, 3148.1, 3284, 3424.9),
    ("smollm2-135m", "qlora", 32, "sdpa", 2, 512, 1063.8, 1194, 1334.9),
    ("smollm2-360m", "lora", 32, "eager", 1, 4096, 4908.5, 7304, 7444.9),
    ("tinyllama-1.1b", "qlora", 32, "eager", 2, 1024, 2876.3, 3666, 3806.9),
    ("tinyllama-1.1b", "lora", 32, "sdpa", 2, 1024, 3287.8, 3532, 3672.9),
    ("tinyllama-1.1b", "qlora", 32, "sdpa", 2, 2048, 3895.9, 4750, 4890.9),
    ("tinyllama-1.1b", "lora", 32, "eager", 2, 512, 2757.2, 2908, 3048.9),
)
"""Model, method, rank, attention, rows, tokens; allocated, reserved and process MiB."""
_QUANTITIES = ("allocated_bytes", "reserved_bytes", "device_bytes")


def figures(quantity: str) -> list[Figure]:
    """All rows of one of the quantities; the process is what is reserved and the source's own context."""
    column = _QUANTITIES.index(quantity)
    found = []
    for name, method, rank, attention, rows, length, *sizes in _T4:
        execution = {"dtype": "float16", "attn_implementation": attention, "gradient_checkpointing": True}
        execution |= {"padded": False, "optim": "adamw_torch", "kbit_upcast": method == "qlora"}
        execution |= {"hold_outputs": True}
        found.append(
            Figure(
                f"{name} {method} {attention} {rows}x{length}",
                sizes[column] * MIB,
                MODELS[name][1],
                method,
                rows,
                length,
                {"rank": rank, "target_modules": _TARGETS} | ({"double_quant": False} if method == "qlora" else {}),
                execution,
                device="t4",
                quantity="allocated_bytes" if column == 0 else "reserved_bytes",
                added_bytes=CONTEXT_BYTES if quantity == "device_bytes" else 0,
                slow="135m" not in name,
            )
        )
    return found
