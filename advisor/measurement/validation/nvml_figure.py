"""The driver's figure of this process's device memory, with or without its list of processes."""

from __future__ import annotations

from collections.abc import Callable

from advisor.hardware.nvml import NvmlUnavailable, process_memory_bytes, used_bytes_by_gpu

PROCESS_LIST = "NVML's list of processes"
DIFFERENCE = "NVML's used memory of the device minus what was used before this process had a context"


class ProcessFigure:
    """What this process holds on its GPU, as the driver counts it.

    In a container NVML often hides the processes. Then what the device's used memory has grown by since before this
    process made its context is the same figure, as long as nobody else comes or goes. Make it before the context.

    Args:
        uuid: Of the GPU; asked once the context is there.
        listed: Bytes of this process in the driver's list.
        used: Used bytes of every GPU by UUID.

    Attributes:
        reason: Where the last figure came from, or why there is none.
    """

    def __init__(
        self,
        uuid: Callable[[], str],
        listed: Callable[[str], int] = lambda uuid: process_memory_bytes(uuid=uuid),
        used: Callable[[], dict[str, int]] = used_bytes_by_gpu,
    ) -> None:
        self._uuid, self._listed, self._used = uuid, listed, used
        self._before: dict[str, int] = {}
        self.reason = "not read yet"
        try:
            self._before = used()
        except NvmlUnavailable as failure:
            self.reason = failure.message

    def read(self) -> int | None:
        """The figure now; ``None`` where the driver does not say."""
        uuid = self._uuid()
        try:
            listed_bytes = self._listed(uuid)
        except NvmlUnavailable as failure:
            return self._grown(uuid, failure.message)
        self.reason = PROCESS_LIST
        return listed_bytes

    def _grown(self, uuid: str, refusal: str) -> int | None:
        before_bytes = self._before.get(uuid.removeprefix("GPU-"))
        if before_bytes is None:
            self.reason = refusal
            return None
        try:
            now_bytes = self._used().get(uuid.removeprefix("GPU-"))
        except NvmlUnavailable as failure:
            self.reason = failure.message
            return None
        self.reason = DIFFERENCE
        return None if now_bytes is None else now_bytes - before_bytes
