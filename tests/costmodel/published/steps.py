"""Published step times of fine-tuning on one A100: tokens per second, and seconds of Qwen's optimizer steps.

IBM's LLMFineTuningBench (Apache-2.0), as decoded from the nearest-neighbour model of
github.com/atlarge-research/coastline-recommender (commit c6609fd, MIT): fms-hf-tuning's SFTTrainer, every sample
exactly as long as stated, checkpointing, flash attention 2, ``adamw_torch``, accumulation 4, LoRA r=4 on query and
value (ado-sfttrainer's README and experiments). Rows whose throughput is above 75 % of the card's peak are left out, as
the source's own known defect. A number stands for one run; the authors' repeats differ by 3 % in the median.
"""

from __future__ import annotations

ONE_CARD: dict[tuple[str, str, str, str], dict[int, dict[int, float]]] = {
    ("a100-sxm4-80gb", "llama-3.2-3b", "full", "bfloat16"): {
        512: {1: 1853, 4: 5128, 16: 6494, 32: 6923, 64: 8303},
        2048: {1: 5253, 2: 5855, 4: 6356, 8: 6459, 16: 7915},
        8192: {1: 5368, 2: 5576, 4: 6779},
    },
    ("a100-sxm4-80gb", "llama-3.2-3b", "lora", "bfloat16"): {
        512: {1: 1807, 2: 3536, 4: 6114, 8: 6733, 16: 7425, 32: 7806},
        2048: {1: 6262, 4: 7110, 8: 7081, 16: 7273},
        8192: {1: 5951, 2: 6059, 4: 6403},
    },
    ("a100-pcie-80gb", "mistral-7b", "full", "bfloat16"): {
        512: {1: 1704, 2: 2176, 4: 2558, 8: 2857, 16: 2987, 32: 3106},
        1024: {4: 2807, 8: 2961, 16: 3044},
        2048: {1: 2525, 2: 2760, 4: 2847, 8: 3001},
        4096: {1: 2659, 2: 2737, 4: 2876, 8: 2870},
        8192: {1: 2570, 2: 2718, 4: 2748},
    },
    ("a100-sxm4-80gb", "mistral-7b", "full", "bfloat16"): {
        512: {1: 1556, 2: 2266, 4: 2811, 8: 3269, 16: 3378, 32: 3516},
        2048: {1: 2741, 2: 3092, 4: 3297, 8: 3490, 16: 3516},
        8192: {1: 3064, 2: 3138, 4: 3159},
    },
    ("a100-sxm4-80gb", "mistral-7b", "gptq-lora", "float16"): {
        512: {1: 2140, 2: 3080, 16: 4240, 32: 4371, 64: 4496, 128: 4437},
        1024: {1: 3087, 2: 3747, 4: 4116, 8: 4292, 16: 4454, 32: 4378, 64: 4439, 128: 4461},
        2048: {1: 3632, 2: 4053, 4: 4132, 8: 4343, 16: 4281, 32: 4394, 64: 4369},
        4096: {2: 4016, 4: 4093, 8: 4129, 16: 4111, 32: 4158},
        8192: {1: 3674, 2: 3707, 4: 3738, 8: 3839, 16: 3844},
    },
    ("a100-pcie-80gb", "mistral-7b", "lora", "bfloat16"): {
        512: {1: 2571, 2: 3042, 8: 3523, 16: 3699, 32: 3793, 64: 3728, 128: 3737},
        1024: {1: 3013, 2: 3263, 4: 3462, 8: 3568, 16: 3586, 32: 3620, 64: 3741},
        2048: {1: 3236, 2: 3439, 8: 3624, 16: 3519, 32: 3557},
        4096: {1: 3207, 4: 3451, 8: 3408, 16: 3428},
        8192: {1: 3061, 2: 3150, 4: 3265, 8: 3210},
    },
    ("a100-sxm4-80gb", "mistral-7b", "lora", "bfloat16"): {
        512: {1: 1709, 2: 3016, 4: 3511, 16: 3973, 64: 4179},
        2048: {2: 3742, 4: 3836, 8: 4012, 16: 4007, 32: 4047},
        8192: {1: 3528, 2: 3657, 4: 3565, 8: 3590},
    },
    ("a100-sxm4-80gb", "mistral-7b", "lora", "float16"): {
        512: {32: 3751, 64: 3786, 128: 3791},
        1024: {2: 3403, 8: 3693, 16: 3778, 32: 3716, 64: 3769},
        2048: {1: 3332, 2: 3540, 4: 3625, 8: 3641, 16: 3689, 32: 3690},
        4096: {1: 3352, 2: 3432, 4: 3522, 8: 3485, 16: 3543},
        8192: {1: 3291, 4: 3326, 8: 3316},
    },
    ("a100-sxm4-80gb", "granite-8b", "full", "bfloat16"): {
        512: {1: 1201, 2: 1927, 8: 2737, 16: 2899, 32: 3437},
        2048: {1: 2339, 2: 2606, 4: 2784},
        8192: {1: 2491, 2: 2905},
    },
    ("a100-sxm4-80gb", "granite-8b", "lora", "bfloat16"): {
        512: {1: 1246, 2: 2464, 4: 2902, 32: 3457},
        2048: {2: 3119, 4: 3220, 8: 3289, 16: 3363, 32: 3358},
        8192: {1: 2806, 2: 2873, 4: 2947, 8: 2988},
    },
}
"""Tokens per second by (device, model, method, data type of the weights), tokens per sample and batch."""

QWEN_S: dict[tuple[str, str], tuple[float, ...]] = {
    ("Qwen-1.8B", "lora"): (1.0, 1.0, 1.1, 1.7, 3.3, 6.8),
    ("Qwen-7B", "lora"): (1.2, 1.5, 2.8, 5.2, 10.1, 21.3),
    ("Qwen-14B", "lora"): (1.6, 2.4, 4.4, 8.4, 17.0, 36.0),
    ("Qwen-1.8B", "with-head"): (1.0, 1.0, 1.1, 1.8, 3.4, 7.0),
    ("Qwen-7B", "with-head"): (1.4, 1.6, 2.9, 5.3, 10.3, 21.7),
    ("Qwen-14B", "with-head"): (1.7, 2.6, 4.6, 8.6, 17.2, 36.3),
}
"""Seconds of one optimizer step (batch 1, accumulation 8) at ``published.qwen.LENGTHS``, A100-SXM4-80GB, in tenths.
Source and setting: ``published.qwen``. Left out as there: full fine-tuning (DeepSpeed ZeRO) and Q-LoRA (AutoGPTQ's
kernels of 2023, which unpack weights by separate elementwise operators)."""
