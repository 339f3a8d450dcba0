"""What makes a peak: which layers, tensors, operators and phase, and how live bytes move over the step."""
