"""One case of a validation: a few real steps in a process of their own, and what the device says about them."""

from advisor.measurement.validation.case import CaseMeasurement, CaseRequest, measure_case, run_case
from advisor.measurement.validation.cuda import CudaFacts, cuda_facts

__all__ = ["CaseMeasurement", "CaseRequest", "CudaFacts", "cuda_facts", "measure_case", "run_case"]
