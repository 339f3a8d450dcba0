"""Which attention kernels transformers implements for an architecture: its classes say so."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from advisor.core.memo import recall_structure
from advisor.core.model import ModelSpec, Task
from advisor.core.plan import AttentionImplementation
from advisor.strategies.skeleton import auto_class, build_skeleton

FLAGS: dict[AttentionImplementation, str] = {
    "sdpa": "_supports_sdpa",
    "flash_attention_2": "_supports_flash_attn",
}
"""What ``PreTrainedModel`` subclasses set; ``"eager"`` is there always."""


def attention_implementations(spec: ModelSpec) -> tuple[AttentionImplementation, ...]:
    """What the architecture supports of ``ExecutionPlan.attn_implementation``; some only know ``"eager"``.

    Raises:
        ModelError: transformers has no such head for the architecture, or cannot build it.
    """

    def supported() -> list[str]:
        model_class = _model_class(spec)
        return [name for name, flag in FLAGS.items() if getattr(model_class, flag, False)]

    return ("eager", *recall_structure("attention kernels", spec, None, supported))


def usual_attention(spec: ModelSpec) -> AttentionImplementation:
    """What transformers takes by itself: SDPA where the architecture has it."""
    return "sdpa" if "sdpa" in attention_implementations(spec) else "eager"


def _model_class(spec: ModelSpec) -> Any:
    """Looked up where transformers knows the architecture by name, which builds nothing; else that of the skeleton."""
    own_code = spec.trust_remote_code and "auto_map" in spec.config
    known = None if own_code else _known_class(spec.model_type, spec.task)
    return known if known is not None else type(build_skeleton(spec))


@lru_cache
def _known_class(model_type: str, task: Task) -> type | None:
    """``None`` where there is no such class, or several to choose from."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    try:
        found = auto_class(task)._model_mapping[CONFIG_MAPPING[model_type]]
    except KeyError:
        return None
    return found if isinstance(found, type) else None
