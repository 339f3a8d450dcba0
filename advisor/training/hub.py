"""Keeps libraries from fetching compiled kernels from a hub.

bitsandbytes asks the ``kernels`` package for a CPU kernel when it is imported, and transformers falls back to it for
attention and fused layers. Both would download and execute code that nobody asked for.
"""

from __future__ import annotations

import logging
import os
import sys

_BITSANDBYTES_LOGGER = "bitsandbytes.backends.cpu.ops"


def forbid_kernel_downloads() -> None:
    """Call before transformers, peft or bitsandbytes are imported; repeating it does nothing.

    * ``USE_HUB_KERNELS=0`` is transformers' own switch (read when it is imported).
    * ``import kernels`` fails as if the package were not installed (a ``None`` in ``sys.modules`` is how Python spells
      that), so bitsandbytes and the attention fall-backs find nothing to download with.
    * The warning that bitsandbytes prints about it is dropped, because nothing is missing.
    """
    os.environ.setdefault("USE_HUB_KERNELS", "0")
    sys.modules.setdefault("kernels", None)  # type: ignore[arg-type]
    logger = logging.getLogger(_BITSANDBYTES_LOGGER)
    if _is_not_download_notice not in logger.filters:
        logger.addFilter(_is_not_download_notice)


def _is_not_download_notice(record: logging.LogRecord) -> bool:
    return "kernels-community" not in str(record.msg)
