"""Seconds of one operator from a device's rates: those of its datasheet times what kernels reach of them, or a probe's.

Time is launch plus the slower of arithmetic and traffic (roofline, Williams et al. 2009). What decides beside FLOPs and
bytes: whether an attention kernel skips what lies above the diagonal, whether float32 products may use TF32, which
attention kernel runs, and how much of its peak a card sustains.
"""

from __future__ import annotations

from dataclasses import dataclass

from advisor.core.device import DeviceProfile, Rate
from advisor.hardware.attention import CHOICE, MASKED_CHOICE
from advisor.hardware.backends import backend_of
from advisor.tracing.ops import TracedOp, skips_keys

GEMM_EFFICIENCY, ATTENTION_EFFICIENCY, BANDWIDTH_EFFICIENCY = 0.85, 0.73, 0.54
"""Shares of a datasheet's dense tensor-core peak and memory bandwidth that training kernels reach.

Fitted together (least squares of log ratios, priors 0.82, 0.62 and 0.80) to 77 public step times of one
A100-SXM4-80GB (LLMFineTuningBench: 3B, 7B and 8B decoders, LoRA and full, bfloat16) and 18 of another (Qwen's profile:
1.8B, 7B and 14B, LoRA), host times apart; the fit gave 0.85, 0.75 and 0.615, of which attention is kept at the most
that FlashAttention-2 reports for an A100 (0.73 of its peak; Dao 2023, arXiv:2307.08691). 87 further rows (the PCIe
card, float16, Qwen with trained embeddings) took no part. A wave-quantisation term for products of few tiles was fitted
beside them and left out: it improved neither source. The bandwidth was fitted again, to the 99 rows of the SXM4 module,
when traces came to hold SiLU's backward pass as the one kernel that CUDA has (less traffic than before): 0.54, errors
of 4.5 % in the median, 17 % at p90, 89 % inside their intervals."""
ATTENTION_FROM_9_0 = 0.35
"""Share of the peak that FlashAttention-2's kernels, which torch has, reach on Hopper (Shah et al. 2024,
arXiv:2407.08608, abstract); later cards are taken to be no better."""
JOULES_PER_TFLOP = {(7, 0): 2.6, (8, 0): 1.25, (8, 6): 1.3, (8, 9): 0.75}
"""What 10^12 FLOPs of 16-bit tensor-core products take, by the first compute capability of a process node: 12 nm, TSMC
7 nm, Samsung 8 nm, TSMC 4 nm. A card whose power limit is lower than its peak takes lowers its clock.

12 nm: fitted to public steps of a T4; one user's large products reach 24 of 65 TFLOPS at 70 W (2.9 J), which NVIDIA
ascribes to the power limit (forums.developer.nvidia.com/t/264462). 7 nm: the PCIe A100 of 300 W, which NVIDIA puts at
90 % of the SXM4 module (announcement of 22 June 2020, anandtech.com/show/15867). 8 nm and 4 nm: fitted to public steps
of an A10 and a 3090, and of an H100 PCIe. Measured ceilings agree: 268 TFLOPS of an A100 SXM4 at 400 W and 792 of an
H100 SXM5 at 700 W are kernels' efficiency (github.com/stas00/ml-engineering, maximum achievable matmul FLOPS)."""
POWER_KNOWN_BELOW = (10, 0)
"""Compute capability from which on the energy is not known: 1,745 TFLOPS of a B200 at 1,000 W (same table) only say
that it is no more than 0.57 J; no limit is assumed there."""
JOULES_RATIO = {"float32": 8.0, "tf32": 2.0}
"""The same for other units, against 16-bit tensor cores. TensorFloat-32: half as many products per pass. CUDA cores:
what a 3090 and a V100 sustain at their limits, against their tensor cores."""
CUDA_CORE_EFFICIENCY = 0.70
"""Share of the peak that float32 products on CUDA cores reach where no power limit binds: fitted to public steps of
BERT-large on a V100 and a 3090."""
CAUSAL_SHARE = 0.5
"""A causal kernel skips the blocks above the diagonal, which are half of the products that are counted."""
ATTENTION_CLASSES = frozenset({"attention", "attention_backward"})
TF32_CLASSES = frozenset({"gemm", "gemm_skinny", "bmm", "conv"})
COUNTED_OTHERWISE = frozenset({"optimizer_foreach", "optimizer_8bit"})
"""Classes whose probed rate counts a step's parameters once, while the trace counts what every call of it moves."""


@dataclass(frozen=True)
class Efficiencies:
    """Shares of a device's rates that its kernels reach, and the host's time.

    Attributes:
        gemm: Of the matrix rate, for products other than fused attention.
        attention: Of the matrix rate, for fused attention.
        bandwidth: Of the memory bandwidth.
        host_s_per_operator: Python, autograd, dispatch and Trainer; 0 where only the device's time is asked for.
        samples: Step times behind them; 0 for assumptions.
        residual_relative: Of those samples: their standard deviation around the prediction.
        device_relative, host_relative: Standard deviations to expect of the device's and the host's time of a step that
            is not among the samples.
    """

    gemm: float = GEMM_EFFICIENCY
    attention: float = ATTENTION_EFFICIENCY
    bandwidth: float = BANDWIDTH_EFFICIENCY
    host_s_per_operator: float = 0.0
    samples: int = 0
    residual_relative: float = 0.0
    device_relative: float = 0.0
    host_relative: float = 0.0


MEASURED = Efficiencies(1.0, 1.0, 1.0)
"""Of rates that were measured: they are what kernels reach."""


def datasheet_efficiencies(device: DeviceProfile) -> Efficiencies:
    """What is assumed of a card that nobody measured."""
    hopper = (device.compute_capability or (0, 0)) >= (9, 0)
    return Efficiencies(GEMM_EFFICIENCY, ATTENTION_FROM_9_0 if hopper else ATTENTION_EFFICIENCY, BANDWIDTH_EFFICIENCY)


def sustained_rates(device: DeviceProfile) -> dict[str, Rate]:
    """The arithmetic rates of a datasheet as long runs sustain them; ``Efficiencies`` say what kernels reach of them.

    A rate is lowered where reaching it would take more than the card may draw, and where it is that of CUDA cores.
    Rates that were measured or fitted are returned as they are.
    """
    if device.basis != "datasheet":
        return dict(device.flops_per_s)
    return {dtype: _sustained(device, dtype, rate) for dtype, rate in device.flops_per_s.items()}


def _sustained(device: DeviceProfile, dtype: str, rate: Rate) -> Rate:
    capability = device.compute_capability
    cuda_cores = dtype == "float32" and capability is not None
    reached_per_s = rate.value * (CUDA_CORE_EFFICIENCY if cuda_cores else GEMM_EFFICIENCY)
    nodes = [first for first in JOULES_PER_TFLOP if capability is not None and first <= capability < POWER_KNOWN_BELOW]
    if nodes and device.power_limit_watts is not None:
        joules = JOULES_PER_TFLOP[max(nodes)] * JOULES_RATIO.get(dtype, 1.0)
        reached_per_s = min(reached_per_s, device.power_limit_watts / joules * 1e12)
    return Rate(reached_per_s / GEMM_EFFICIENCY, rate.source, rate.spread)


class DeviceRates:
    """Tells the time of operators from the rates in a device's profile.

    Args:
        device: Its rates are those of a datasheet, or measured.
        tf32: Products of float32 tensors may use TensorFloat-32.
        efficiencies: Instead of what is assumed.
    """

    def __init__(self, device: DeviceProfile, *, tf32: bool = False, efficiencies: Efficiencies | None = None) -> None:
        self.device = device
        self.tf32 = tf32 and "tf32" in device.flops_per_s
        assumed = datasheet_efficiencies(device) if device.basis == "datasheet" else MEASURED
        self.efficiencies = efficiencies or assumed
        self._flops_per_s = sustained_rates(device)
        kernel = device.overhead_s.get("kernel")
        self._launch_s = kernel.value if kernel is not None else device.launch_s

    @property
    def known(self) -> bool:
        """Whether the profile has the two rates that any estimate needs."""
        return bool(self.device.flops_per_s) and "memory" in self.device.bytes_per_s

    def is_tf32(self, kind: str, dtype: str) -> bool:
        """Whether operators of this class use TensorFloat-32."""
        return self.tf32 and dtype == "float32" and kind in TF32_CLASSES

    def is_replaced(self, kind: str, dtype: str, name: str) -> bool:
        """Whether steps run another kernel than the traced operator's own, which is what a calibration replays."""
        if kind in ATTENTION_CLASSES and dtype != "float32":
            return self._attention_kernel(kind, name) == "cudnn"
        return self.is_tf32(kind, dtype)

    def prices(self, kind: str, dtype: str, name: str) -> tuple[float, float, float]:
        """Seconds of launching an operator, of each FLOP that it executes (``executed_flops``), and of each byte that
        it moves; one call takes the launch and the slower of the other two.

        Args:
            kind: Operator class (``trace.ops.op_class``).
            dtype: Of its first floating-point argument.
            name: Schema name, which tells attention kernels apart.
        """
        return (self._launch_s, *((0.0, 0.0) if kind == "allocation" else self.slopes(kind, dtype, name)))

    def slopes(self, kind: str, dtype: str, name: str) -> tuple[float, float]:
        """Seconds of a FLOP that is executed, and of a byte that is moved.

        Args:
            kind: As for ``prices``.
            dtype: As for ``prices``.
            name: As for ``prices``.
        """
        share = self.efficiencies.attention if kind in ATTENTION_CLASSES else self.efficiencies.gemm
        flops_per_s = self._flops_rate(kind, dtype, name).value * share
        return 1 / flops_per_s, 1 / (self._bytes_rate(kind, dtype).value * self.efficiencies.bandwidth)

    def _flops_rate(self, kind: str, dtype: str, name: str) -> Rate:
        """The most special rate there is; float32's where the device lists none (it is emulated there at best)."""
        rates = self._flops_per_s
        special = {"gemm_skinny": f"{dtype}/skinny", "bmm": f"{dtype}/bmm"}.get(kind, "")
        if kind in ATTENTION_CLASSES:
            special = f"{kind}/{self._attention_kernel(kind, name)}"
            if dtype == "float32" and backend_of(self.device).setups.half_precision:
                special += "/float32"  # a probe of a GPU times these kernels in half precision
        if self.is_tf32(kind, dtype):
            return rates["tf32"]
        if special in rates:
            return rates[special]
        return rates.get(dtype) or rates.get("float32") or next(iter(rates.values()))

    def _attention_kernel(self, kind: str, name: str) -> str:
        """The kernel that runs where the trace has this one.

        The trace takes flash attention, or the memory-efficient kernel where there is a mask; torch may prefer cuDNN's
        there, which a probe found out.
        """
        traced, choice = ("efficient", MASKED_CHOICE) if "efficient" in name else ("flash", CHOICE)
        preferred = self.device.facts.get(choice, "").split(" (", 1)[0]
        return "cudnn" if preferred == "cudnn" and f"{kind}/cudnn" in self.device.flops_per_s else traced

    def _bytes_rate(self, kind: str, dtype: str) -> Rate:
        rates = self.device.bytes_per_s
        if kind in COUNTED_OTHERWISE:
            return rates["memory"]
        return rates.get(f"{kind}/{dtype}") or rates.get(kind) or rates["memory"]


def executed_flops(op: TracedOp) -> float:
    """What an operator computes of the FLOPs that are counted for it."""
    return op.flops * executed_share(op.name)


def executed_share(name: str) -> float:
    """The share of its counted FLOPs that an operator with this name computes."""
    return CAUSAL_SHARE if skips_keys(name) else 1.0
