"""Quality: a prior from published tables, evidence from short runs, an interval from both."""

from advisor.costmodel.quality.evidence import EvidenceRun, QualityEvidence
from advisor.costmodel.quality.gather import gather_evidence
from advisor.costmodel.quality.model import QualityModel, QualityPrior, default_prior
from advisor.costmodel.quality.tables import load_tables

__all__ = [
    "EvidenceRun",
    "QualityEvidence",
    "QualityModel",
    "QualityPrior",
    "default_prior",
    "gather_evidence",
    "load_tables",
]
