"""What makes a peak: which layers, tensors, operators and phase, and how live bytes move over the step."""

from advisor.costmodel.explain.peak import explain_peak, untraced_batch_bytes
from advisor.costmodel.explain.records import PeakExplanation, PeakShare, TensorGroup, Timeline

__all__ = ["PeakExplanation", "PeakShare", "TensorGroup", "Timeline", "explain_peak", "untraced_batch_bytes"]
