"""What the driver says a process holds on its GPU, over time."""

from __future__ import annotations

import threading

import torch

SAMPLING_S = 0.2
"""How often the device's memory figure of the training process is read (CUDA; on CPU the kernel keeps the peak
itself)."""


class DeviceMemoryWatch:
    """Samples what the driver says this process holds on its GPU.

    Attributes:
        first_bytes: The first figure, with the CUDA context and little else.
        peak_bytes: The largest one; ``None`` when the driver does not say.
    """

    def __init__(self) -> None:
        self.first_bytes: int | None = None
        self.peak_bytes: int | None = None
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> DeviceMemoryWatch:
        torch.zeros(1, device="cuda")  # makes the context, so that the first figure is the context
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._done.set()
        self._thread.join()

    def _sample(self) -> None:
        """Until told to stop, and once more then: the allocator gives little back, so the last one is near the peak."""
        from advisor.hardware.nvml import NvmlUnavailable, process_memory_bytes

        last = False
        while not last:
            last = self._done.wait(SAMPLING_S)
            try:
                held_bytes = process_memory_bytes()
            except NvmlUnavailable:
                return
            self.first_bytes = self.first_bytes or held_bytes
            self.peak_bytes = max(self.peak_bytes or 0, held_bytes)
