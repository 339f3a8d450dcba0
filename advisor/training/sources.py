"""Reading a model's configuration and checking its weight files, without loading them or executing anything."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from advisor.core.errors import ModelError
from advisor.core.model import SourceKind
from advisor.core.serialization import read_json
from advisor.hardware.trials import first_line

ADAPTER_CONFIG = "adapter_config.json"
"""What PEFT saves beside an adapter's weights."""

SAFETENSORS_INDEX = "model.safetensors.index.json"
PICKLE_PATTERNS = ("pytorch_model*.bin", "*.pt", "*.pth", "*.ckpt")


DEQUANTIZED_WHILE_LOADING = {"mxfp4": "Mxfp4Config", "fp8": "FineGrainedFP8Config"}
"""Formats of checkpoints that have no other original, with the class in transformers whose ``dequantize=True`` loads
them in the plan's data type, as they are fine-tuned (gpt-oss, DeepSeek-V3 and its kin)."""

FoundModel = tuple[dict[str, Any], bool, int, str | None]
"""Parsed configuration with ``model_type``; whether weights can be loaded; their bytes on disk, 0 when unknown; the
commit of a model on the hub."""


def read_source(
    source: str, kind: SourceKind, *, trust_remote_code: bool, allow_pickle: bool, revision: str | None
) -> FoundModel:
    """Read and check a model's source.

    Raises:
        ModelError: see ``advisor.training.models.inspect_model``.
    """
    path = Path(source).expanduser()
    if kind == "folder":
        _refuse_adapter(path, source)
        config = _checked_config(
            read_json(path / "config.json", what="the model's config.json", error=ModelError), source, trust_remote_code
        )
        return (config, *_folder_weights(path, allow_pickle), None)
    if kind == "config":
        values = read_json(path, what="the model configuration", error=ModelError)
        return _checked_config(values, source, trust_remote_code), False, 0, None
    if kind == "gguf":
        return _gguf_config(path), True, path.stat().st_size, None
    return _hub_model(source, trust_remote_code, allow_pickle, revision)


def _refuse_adapter(folder: Path, source: str) -> None:
    """What PEFT saved is no model; say whose adapter it is."""
    adapter = folder / ADAPTER_CONFIG
    if not adapter.is_file() or (folder / "config.json").is_file():
        return
    values = read_json(adapter, what="the adapter's adapter_config.json", error=ModelError)
    values = values if isinstance(values, dict) else {}
    base, kind = values.get("base_model_name_or_path"), values.get("peft_type") or "PEFT"
    raise ModelError(
        f"{source} must be a model, but it is a {kind} adapter of {base or 'another model'}",
        fix=f"name {base or 'its base model'}; a new adapter is trained, a saved one is not continued. "
        f"`--peft-config {source}` takes over its configuration",
    )


def _checked_config(values: Any, source: str, trust_remote_code: bool) -> dict[str, Any]:
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    if not isinstance(values, dict):
        raise ModelError(f"a model configuration must be a JSON object, but {source} holds a {type(values).__name__}")
    if "auto_map" in values and not trust_remote_code and values.get("model_type") not in CONFIG_MAPPING:
        raise ModelError(
            f"{source} wants to run its own Python code (auto_map in its configuration), which is refused",
            fix="read that code, then pass --trust-remote-code",
        )
    model_type = values.get("model_type")
    if not isinstance(model_type, str):
        raise ModelError(
            f"a model configuration must name its model_type, but {source} does not",
            fix="use the config.json of the model itself",
        )
    if model_type not in CONFIG_MAPPING and not trust_remote_code:
        near = difflib.get_close_matches(model_type, list(CONFIG_MAPPING.keys()), n=3)
        raise ModelError(
            f"the model type must be one that transformers knows, but {source} has {model_type!r}",
            fix=f"did you mean {' or '.join(near)}?" if near else "upgrade transformers, or choose another model",
        )
    method = stored_quantization(values)
    if method is not None and method not in DEQUANTIZED_WHILE_LOADING:
        raise ModelError(
            f"weights must not be quantised already, but those of {source} are ({method})",
            fix="name the original model; the method qlora quantises it itself",
        )
    return values


def stored_quantization(config: Mapping[str, Any]) -> str | None:
    """How a checkpoint's weights are quantised (``quant_method`` of its ``quantization_config``); ``None``: not."""
    if "quantization_config" not in config:
        return None
    return str((config["quantization_config"] or {}).get("quant_method", "an unknown method"))


def _folder_weights(folder: Path, allow_pickle: bool) -> tuple[bool, int]:
    files = _safetensors_files(folder)
    if files:
        for file in files:
            check_safetensors(file)
        return True, sum(file.stat().st_size for file in files)
    pickles = sorted({file for pattern in PICKLE_PATTERNS for file in folder.glob(pattern)})
    if not pickles:
        return False, 0
    if not allow_pickle:
        raise ModelError(
            f"weights must be safetensors, but {folder} has only pickles ({pickles[0].name}), "
            "which can execute code when loaded",
            fix="convert them to safetensors, or pass --allow-pickle if you trust their author",
        )
    return True, sum(file.stat().st_size for file in pickles)


def _safetensors_files(folder: Path) -> list[Path]:
    index = folder / SAFETENSORS_INDEX
    if not index.exists():
        return sorted(folder.glob("model*.safetensors"))
    values = read_json(index, what="the index of the weights", error=ModelError)
    shards = sorted(set(values.get("weight_map", {}).values())) if isinstance(values, dict) else []
    missing = [name for name in shards if not (folder / name).is_file()]
    if missing or not shards:
        raise ModelError(
            f"all shards of {index} must be there, but {', '.join(missing) or 'it names none'} is missing",
            fix="download the model again",
        )
    return [folder / name for name in shards]


def check_safetensors(path: Path) -> None:
    """Check a safetensors file's header against its length, without reading the tensors.

    Raises:
        ModelError: truncated or damaged.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np"):
            pass
    except (SafetensorError, OSError, ValueError) as failure:
        raise ModelError(
            f"{path} must be a whole safetensors file, but its {path.stat().st_size} bytes are not: {failure}",
            fix="download or copy the file again",
        ) from None


def _gguf_config(path: Path) -> dict[str, Any]:
    try:
        from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

        values: dict[str, Any] = dict(load_gguf_checkpoint(str(path), return_tensors=False)["config"])
    except ImportError as failure:
        raise ModelError(
            f"reading {path} needs the gguf package", fix="pip install 'finetune-advisor[gguf]'"
        ) from failure
    except Exception as failure:
        raise ModelError(
            f"{path} must be a whole GGUF file of an architecture that transformers knows: {failure}"
        ) from failure
    return values


def _hub_model(source: str, trust_remote_code: bool, allow_pickle: bool, revision: str | None) -> FoundModel:
    from transformers import PreTrainedConfig

    try:
        values, _ = PreTrainedConfig.get_config_dict(source, revision=revision or "main")
    except Exception as failure:
        raise ModelError(
            f"{source!r} is neither a path here nor a model that can be reached: {first_line(failure)}",
            fix="check the name; offline, name a local folder or a model that is in the cache",
        ) from None
    config = _checked_config({k: v for k, v in values.items() if k != "_commit_hash"}, source, trust_remote_code)
    return (config, *_hub_weights(source, allow_pickle, revision), _commit(source, revision))


def _commit(source: str, revision: str | None) -> str | None:
    """Of a hub model whose configuration has just been read, by where the cache has put it."""
    from huggingface_hub import try_to_load_from_cache

    config = try_to_load_from_cache(source, "config.json", revision=revision)
    folder = Path(config).parent.name if isinstance(config, str) else ""
    return folder if re.fullmatch(r"[0-9a-f]{40}", folder) else None


def _hub_weights(source: str, allow_pickle: bool, revision: str | None) -> tuple[bool, int]:
    """Weights on the hub, by its file list; offline by what is in the cache."""
    from huggingface_hub import HfApi, try_to_load_from_cache

    try:
        siblings = HfApi().model_info(source, revision=revision, files_metadata=True).siblings or []
    except Exception:  # offline, unreachable or not allowed, each in words of its own: the cache is what there is
        cached = try_to_load_from_cache(source, "config.json", revision=revision)
        return _folder_weights(Path(cached).parent, allow_pickle) if isinstance(cached, str) else (False, 0)
    sizes = {file.rfilename: file.size or 0 for file in siblings}
    safe = [name for name in sizes if name.endswith(".safetensors") and "/" not in name]
    pickles = [name for name in sizes if name.endswith((".bin", ".pt", ".pth")) and "/" not in name]
    if not safe and pickles and not allow_pickle:
        raise ModelError(
            f"weights must be safetensors, but {source} has only pickles ({pickles[0]}), "
            "which can execute code when loaded",
            fix="choose a revision with safetensors, or pass --allow-pickle if you trust their author",
        )
    chosen = safe or pickles
    return bool(chosen), sum(sizes[name] for name in chosen)
