"""The model's module tree without weights: configuration, transformers' class, attention kernels, a build on meta."""

from __future__ import annotations

import json
import pkgutil
from contextlib import suppress
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from advisor.core.errors import ModelError
from advisor.core.memo import recall_structure
from advisor.core.model import ModelSpec, Task
from advisor.core.plan import AttentionImplementation
from advisor.core.tasks import task_traits

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedConfig
FLAGS: dict[AttentionImplementation, str] = {
    "sdpa": "_supports_sdpa",
    "flash_attention_2": "_supports_flash_attn",
}
"""What ``PreTrainedModel`` subclasses set; ``"eager"`` is there always."""


def auto_class(task: Task) -> Any:
    """The class that puts the task's head on a backbone: one of transformers' auto classes, or one like them."""
    name = task_traits(task).auto_class
    return pkgutil.resolve_name(name if ":" in name else f"transformers:{name}")


def model_config(spec: ModelSpec, *, num_hidden_layers: int | None = None) -> PreTrainedConfig:
    """The transformers configuration of ``spec``, prepared for training.

    ``use_cache`` is off (a key-value cache only costs memory in training), and where the task needs a pad token a
    missing one becomes the end-of-text token.

    Args:
        spec: The model; only its configuration and task are read.
        num_hidden_layers: Overrides the depth.
    """
    config = _parse_config(spec)
    text = config.get_text_config()
    traits = spec.traits
    if traits.new_head:
        config.num_labels = spec.num_labels
    for name, value in traits.config_values.items():
        setattr(config, name, value)
    if traits.needs_pad_token:
        end = getattr(text, "eos_token_id", None)
        for part in (config, text):
            if getattr(part, "pad_token_id", None) is None:
                part.pad_token_id = (end[0] if isinstance(end, list) else end) if end is not None else 0
    for part in (config, text):
        if hasattr(part, "use_cache"):
            part.use_cache = False
    if num_hidden_layers is not None:
        set_depth(text, num_hidden_layers)
    return config


def _parse_config(spec: ModelSpec) -> PreTrainedConfig:
    from transformers import AutoConfig, PreTrainedConfig
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    if spec.trust_remote_code and "auto_map" in spec.config:
        return AutoConfig.from_pretrained(spec.source, trust_remote_code=True, revision=spec.revision)
    values = {key: value for key, value in spec.config.items() if key != "quantization_config"}
    # Files of transformers 5 hold infinity as an object, since JSON has no word for it.
    decode = getattr(PreTrainedConfig, "_decode_special_floats", None)
    return CONFIG_MAPPING[spec.model_type].from_dict(decode(values) if decode is not None else values)


_OTHER_DEPTHS = ("num_decoder_layers", "decoder_layers", "encoder_layers", "num_encoder_layers")

_LAST_LAYERS = ("num_kv_shared_layers",)
"""How many of the last layers do something apart: Gemma 3n's and Gemma 4's read keys and values of earlier ones."""


def set_depth(config: Any, num_hidden_layers: int) -> None:
    """Depth under the architecture's own name (``n_layer``, ``num_layers``).

    A decoder of the encoder's depth follows, and so does every list with one entry a layer. Layers go from the end:
    settings of single layers beyond it go with them, and of the last layers, counted together, the same number.
    """
    before = config.num_hidden_layers
    decoders = [name for name in _OTHER_DEPTHS if getattr(config, name, None) == before]
    lists = {name: v for name, v in vars(config).items() if isinstance(v, list) and v and len(v) == before}
    config.num_hidden_layers = num_hidden_layers
    for name in decoders:
        setattr(config, name, num_hidden_layers)
    for name, values in lists.items():
        setattr(config, name, (values * -(-num_hidden_layers // before))[:num_hidden_layers])
    for name in _LAST_LAYERS:
        if isinstance(count := getattr(config, name, None), int):
            setattr(config, name, max(0, count + num_hidden_layers - before))
    if getattr(config, "is_heterogeneous", False):
        overrides = config.to_dict()["per_layer_config"]
        config.per_layer_config = {n: of for n, of in overrides.items() if int(n) < num_hidden_layers}


def build_skeleton(spec: ModelSpec, num_hidden_layers: int | None = None) -> nn.Module:
    """The model on the meta device: all modules and shapes, no memory. Cached; do not change it.

    Args:
        spec: Only its configuration and task are read.
        num_hidden_layers: Overrides the depth.

    Raises:
        ModelError: transformers has no such head for the architecture, or cannot build it.
    """
    return _build_skeleton(json.dumps(spec.config, sort_keys=True), spec.task, _Key(spec), num_hidden_layers)


class _Key:
    """Carries the spec past the cache, which looks at configuration and task only."""

    def __init__(self, spec: ModelSpec) -> None:
        self.spec = spec

    def __hash__(self) -> int:
        return hash((self.spec.num_labels, self.spec.model_type, self.spec.trust_remote_code))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Key) and hash(self) == hash(other)


@lru_cache(maxsize=16)
def _build_skeleton(config_json: str, task: Task, key: _Key, num_hidden_layers: int | None) -> nn.Module:
    import torch
    import transformers

    try:
        config = model_config(key.spec, num_hidden_layers=num_hidden_layers)
        with torch.device("meta"):
            built: nn.Module = auto_class(task).from_config(config, trust_remote_code=key.spec.trust_remote_code)
    except Exception as failure:
        if isinstance(failure, ValueError) and "Unrecognized configuration class" in str(failure):
            raise ModelError(
                f"the task {task} needs an architecture with such a head, "
                f"but transformers has none for {key.spec.model_type!r}",
                fix="choose another task or model",
            ) from None
        reason = " ".join(str(failure).split())
        if not isinstance(failure, ValueError) or not reason:
            reason = f"{type(failure).__name__}: {reason}"
        raise ModelError(
            f"transformers {transformers.__version__} cannot build {key.spec.model_type!r} from its configuration: "
            f"{reason}",
            fix="take the config.json that the model was published with: a key is missing, or contradicts another",
        ) from failure
    return built


def attention_implementations(spec: ModelSpec) -> tuple[AttentionImplementation, ...]:
    """What the architecture supports of ``ExecutionPlan.attn_implementation``; some only know ``"eager"``.

    Raises:
        ModelError: transformers has no such head for the architecture, or cannot build it.
    """

    def supported() -> list[str]:
        model_class = _model_class(spec)
        return [name for name, flag in FLAGS.items() if getattr(model_class, flag, False)]

    return ("eager", *recall_structure("attention kernels", spec, None, supported))


def separates_documents(spec: ModelSpec) -> bool:
    """Whether the architecture keeps packed documents apart when their positions begin anew.

    It must look for packed sequences in the positions that a batch brings (transformers' ``create_causal_mask`` does,
    where a batch has no mask), and no layer may carry anything along the row by other means, as convolutions and
    recurrent states do. One layer is run on the meta device to see it.

    Raises:
        ModelError: transformers has no such head for the architecture, or cannot build it.
    """

    def separates() -> bool:
        from torch import nn

        skeleton = build_skeleton(spec)
        if any(isinstance(module, nn.Conv1d) for module in skeleton.modules()):
            return False
        return _looks_for_packed_sequences(build_skeleton(spec, num_hidden_layers=1))

    return bool(recall_structure("separate documents", spec, None, separates))


def _looks_for_packed_sequences(skeleton: nn.Module) -> bool:
    import torch
    from transformers import masking_utils

    looked: list[torch.Tensor] = []
    find = masking_utils.find_packed_sequence_indices
    masking_utils.find_packed_sequence_indices = looked.append
    try:
        tokens = torch.zeros(1, 8, dtype=torch.long, device="meta")
        embedded = torch.zeros(1, 8, skeleton.get_input_embeddings().embedding_dim, device="meta")
        # What reads values ends on this device: layers that route, after the mask, or a look for padding, before it.
        for inputs in ({"input_ids": tokens}, {"inputs_embeds": embedded}):
            with suppress(Exception):
                skeleton(**inputs, position_ids=tokens)
    finally:
        masking_utils.find_packed_sequence_indices = find
    return bool(looked)


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
