"""Which modules a method touches, read off the model's own module tree, so that every architecture works.

PEFT's tables of target modules miss architectures (DistilBERT) and heads (the BERT pooler). Here the tree is searched:
heads are what transformers puts around the backbone, the layers are the backbone's largest ``ModuleList``, attention
projections and feed-forward outputs are found inside the layers.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from advisor.core.errors import InputError

if TYPE_CHECKING:
    from torch import nn

_PART = r"(_?(lin|linear|proj|projection|attn|layer|b_proj|conv))?"
_QUERY = re.compile(rf"^(q|query|wq){_PART}$", re.IGNORECASE)
_KEY = re.compile(rf"^(k|key|wk|kv){_PART}$", re.IGNORECASE)
_VALUE = re.compile(rf"^(v|value|wv|kv){_PART}$", re.IGNORECASE)
_FUSED = re.compile(r"qkv|query_key_value|^c_attn$|^in_proj$|^att_proj$", re.IGNORECASE)
_ATTENTION_PATH = re.compile(r"attn|attention", re.IGNORECASE)
_FINAL_NORM = re.compile(r"^((final_)?(layer_?norm|norm)|ln_f|norm_f)$")
"""Norms behind the last layer. ``LayerNorm`` beside DeBERTa's layers is not one: it normalises relative positions."""


def is_linear(module: nn.Module) -> bool:
    """Whether it multiplies by a weight matrix: ``nn.Linear`` and its subclasses, and GPT-2's ``Conv1D``."""
    from torch import nn

    return isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"


def is_conv1d(module: nn.Module) -> bool:
    """Whether the weight is stored as (in, out) instead of (out, in)."""
    return type(module).__name__ == "Conv1D"


def linear_shape(module: nn.Module) -> tuple[int, int]:
    """(in_features, out_features), of 4-bit layers too, whose weight is packed."""
    if is_conv1d(module):
        weight: Any = module.weight
        return int(weight.shape[0]), int(weight.shape[1])
    return int(module.in_features), int(module.out_features)


def backbone(model: nn.Module) -> nn.Module:
    """The model without its head (the model itself when it has no head)."""
    return getattr(model, "base_model", model)


def head_modules(model: nn.Module) -> tuple[str, ...]:
    """Full names of the modules with parameters that make up the head, in module order.

    What stands beside the backbone (``classifier``, ``pre_classifier``, ``score``, ``lm_head``, ``cls``), and the
    backbone's own ``pooler``: transformers initialises it anew for checkpoints without one, and the classifier reads
    nothing else.
    """
    body = backbone(model)
    names = [name for name, child in model.named_children() if child is not body and _has_parameters(child)]
    if body is model:
        names = [name for name in names if re.search(r"class|score|head|pooler|^cls$", name)]
        return tuple(names)
    prefix = next((name for name, child in model.named_children() if child is body), "")
    pooled = [
        f"{prefix}.{name}" for name, child in body.named_children() if name == "pooler" and _has_parameters(child)
    ]
    return tuple(pooled + names)


def head_linears(model: nn.Module) -> tuple[str, ...]:
    """Full names of the linear layers inside the head."""
    heads = head_modules(model)
    output = _output_embeddings_name(model)
    names = [name for name, module in model.named_modules() if is_linear(module) and _inside(name, heads)]
    return tuple(dict.fromkeys([*names, *([output] if output else [])]))


def backbone_layers(model: nn.Module) -> tuple[str, nn.ModuleList]:
    """Name and list of the repeated layers: the backbone's ``ModuleList`` with the most parameters.

    Of two equal ones (encoder and decoder) the last counts.

    Raises:
        InputError: the model has no list of layers.
    """
    from torch import nn

    found: list[tuple[int, str, nn.ModuleList]] = []
    for name, module in model.named_modules():
        if (
            isinstance(module, nn.ModuleList)
            and len(module)
            and not any(name.startswith(f"{outer}.") for _, outer, _ in found)
        ):
            found.append((sum(parameter.numel() for parameter in module.parameters()), name, module))
    if not found:
        raise InputError(f"{type(model).__name__} has no list of layers that could be unfrozen one by one")
    largest = max(size for size, _, _ in found)
    return next((name, layers) for size, name, layers in reversed(found) if size == largest)


def final_norms(model: nn.Module) -> tuple[str, ...]:
    """Full names of the norms behind the last layer."""
    layers_name, _ = backbone_layers(model)
    parent = layers_name.rpartition(".")[0]
    owner = model.get_submodule(parent) if parent else model
    names = [name for name, child in owner.named_children() if _FINAL_NORM.match(name) and _has_parameters(child)]
    return tuple(f"{parent}.{name}" if parent else name for name in names)


def backbone_linears(model: nn.Module) -> tuple[str, ...]:
    """Full names of all linear layers outside the head and the output projection."""
    heads = (*head_modules(model), *filter(None, [_output_embeddings_name(model)]))
    return tuple(name for name, module in model.named_modules() if is_linear(module) and not _inside(name, heads))


def attention_linears(model: nn.Module, roles: Iterable[str] = ("query", "value")) -> tuple[str, ...]:
    """Full names of the attention projections with these roles (``"query"``, ``"key"``, ``"value"``).

    A projection that computes several at once (GPT-2 ``c_attn``, GPT-NeoX ``query_key_value``, Phi-3 ``qkv_proj``)
    counts for each. Where no name tells the roles apart, all linear layers of the attention modules are returned, and
    all of the backbone where no module is called attention.
    """
    patterns = [{"query": _QUERY, "key": _KEY, "value": _VALUE}[role] for role in roles]
    linears = backbone_linears(model)
    chosen = [
        name
        for name in linears
        if _FUSED.search(_last(name)) or any(pattern.match(_last(name)) for pattern in patterns)
    ]
    if not chosen:
        chosen = [name for name in linears if _ATTENTION_PATH.search(name)]
    return tuple(chosen or linears)


def feedforward_outputs(model: nn.Module) -> tuple[str, ...]:
    """Full names of the feed-forward blocks' last projections: outside attention, back to the residual width."""
    layers_name, _ = backbone_layers(model)
    groups: dict[str, list[tuple[int, str]]] = {}
    width = int(getattr(model.config, "hidden_size", 0) or 0)
    for name in backbone_linears(model):
        if not re.match(rf"{re.escape(layers_name.split('.')[0])}\b", name) or not re.search(r"\.\d+\.", name):
            continue
        block, path = re.split(r"(?<=\.\d)\.|(?<=\d\d)\.", name, maxsplit=1)[0], name
        inside = name.removeprefix(block)
        in_features, out_features = linear_shape(model.get_submodule(name))
        if out_features == width and not _ATTENTION_PATH.search(inside):
            groups.setdefault(block, []).append((in_features, path))
    widest = {block: max(size for size, _ in members) for block, members in groups.items()}
    return tuple(name for block, members in groups.items() for size, name in members if size == widest[block])


def resolve_targets(model: nn.Module, target_modules: str | tuple[str, ...] | None) -> tuple[str, ...]:
    """Full names of the linear layers that ``StrategyConfig.target_modules`` means.

    Raises:
        InputError: a name suffix that matches no linear layer.
    """
    if target_modules in (None, "attention"):
        return attention_linears(model)
    if target_modules == "all-linear":
        return backbone_linears(model)
    suffixes = (target_modules,) if isinstance(target_modules, str) else tuple(target_modules or ())
    linears = [name for name, module in model.named_modules() if is_linear(module)]
    unmatched = [suffix for suffix in suffixes if not any(matches(name, suffix) for name in linears)]
    if unmatched or not suffixes:
        known = ", ".join(sorted({_last(name) for name in linears}))
        raise InputError(
            "target_modules must name linear layers of the model, "
            f"but {', '.join(map(repr, unmatched)) or 'nothing'} matches none",
            fix=f'use "attention", "all-linear", or some of: {known}',
        )
    return tuple(name for name in linears if any(matches(name, suffix) for suffix in suffixes))


def shortest_suffixes(model: nn.Module, names: tuple[str, ...]) -> list[str]:
    """Last name parts if they mean exactly ``names`` and nothing else in the model, else the full names."""
    wanted = set(names)
    suffixes = sorted({_last(name) for name in names})
    meant = {name for name, _ in model.named_modules() if any(matches(name, suffix) for suffix in suffixes)}
    return suffixes if meant == wanted else sorted(wanted)


def _output_embeddings_name(model: nn.Module) -> str | None:
    getter = getattr(model, "get_output_embeddings", None)
    output = getter() if getter is not None else None
    return (
        next((name for name, module in model.named_modules() if module is output), None) if output is not None else None
    )


def _has_parameters(module: nn.Module) -> bool:
    return next(module.parameters(), None) is not None


def _inside(name: str, owners: Iterable[str]) -> bool:
    return any(name == owner or name.startswith(f"{owner}.") for owner in owners)


def matches(name: str, suffix: str) -> bool:
    """Whether a module's full name is ``suffix`` or ends with it, as PEFT reads ``target_modules``."""
    return name == suffix or name.endswith(f".{suffix}")


def _last(name: str) -> str:
    return name.rpartition(".")[2]
