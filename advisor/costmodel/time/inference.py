"""How fast the trained model will answer: batched forward passes, and one reader's tokens one by one."""

from __future__ import annotations

from dataclasses import dataclass

from advisor.core.coefficients import Calibration
from advisor.core.cost import InferenceEstimate, Interval
from advisor.core.device import DeviceProfile
from advisor.costmodel.time.device_rates import BANDWIDTH_EFFICIENCY
from advisor.costmodel.time.step import HOST_RATE_KEY, StepTime, side_by_side
from advisor.hardware.backends import backend_of

DECODE_FACTOR = 2.0
"""90 % interval of the decoding speed, as a factor either way: nothing of it was measured."""


@dataclass(frozen=True)
class Decoding:
    """What writing one token takes.

    Attributes:
        weights_bytes: All weights as they lie on the device; each token reads them once.
        operators: Of one forward pass, whatever its shape.
    """

    weights_bytes: int
    operators: float


def inference_speed(
    samples_per_s: float, tokens_per_row: float, reference: StepTime, decoding: tuple[float, str] | None
) -> InferenceEstimate:
    """The speeds of a model."""
    slow, fast = reference.seconds / reference.high, reference.seconds / reference.low
    tokens_per_s = samples_per_s * tokens_per_row
    intervals = {
        "samples_per_s": Interval(samples_per_s * slow, samples_per_s * fast),
        "tokens_per_s": Interval(tokens_per_s * slow, tokens_per_s * fast),
    }
    if decoding is not None:
        intervals["decode_tokens_per_s"] = Interval(decoding[0] / DECODE_FACTOR, decoding[0] * DECODE_FACTOR)
    return InferenceEstimate(
        samples_per_s=samples_per_s,
        tokens_per_s=tokens_per_s,
        decode_tokens_per_s=decoding[0] if decoding is not None else None,
        intervals=intervals,
        evidence=reference.evidence,
        basis=reference.basis,
        decode_basis=decoding[1] if decoding is not None else "",
    )


def decode_speed(work: Decoding, device: DeviceProfile, calibration: Calibration | None) -> tuple[float, str] | None:
    """Tokens per second of one reader with a cache of the earlier tokens, and what that rests on.

    One token multiplies every weight with one vector, so it takes as long as reading the weights; what the cache adds
    is left out. Launching the operators comes on top (CPU) or beside it (CUDA), as in a training step.
    """
    rate = device.bytes_per_s.get("memory")
    if rate is None or not work.weights_bytes:
        return None
    bandwidth = rate.value * (BANDWIDTH_EFFICIENCY if device.basis == "datasheet" else 1.0)
    fitted, overhead = device.overhead_s.get(HOST_RATE_KEY), backend_of(device).overhead
    per_operator_s = fitted.value if fitted is not None else overhead.host_s_per_operator
    if calibration is not None and calibration.step is not None:
        per_operator_s = calibration.step.host_s_per_operator
    reading_s, host_s = work.weights_bytes / bandwidth, work.operators * per_operator_s
    seconds = side_by_side(host_s, reading_s, overhead.overlap_power)
    return 1 / seconds, (
        f"not measured: all weights ({work.weights_bytes / 1e6:.0f} MB) read once a token at "
        f"{bandwidth / 1e9:.0f} GB/s, and {work.operators:.0f} operators launched"
    )
