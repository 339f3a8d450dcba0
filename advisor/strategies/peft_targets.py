"""Which modules a PEFT configuration puts its layers on, where it does not say so itself."""

from __future__ import annotations

import re
from typing import Any

from torch import nn

from advisor.strategies.ia3 import rescaled_modules
from advisor.strategies.targets import backbone, head_modules, is_conv1d, resolve_targets, shortest_suffixes

PLACED_BY_PEFT = frozenset({"ADAPTION_PROMPT", "SHADOW", "TRAINABLE_TOKENS"})
"""These do not wrap linear layers but attention blocks, decoder layers and the embeddings; PEFT finds them itself."""

PRESETS = ("attention", "all-linear")


def target_modules(model: nn.Module, kind: str, given: Any, layers: Any = None) -> list[str] | str | None:
    """What goes into the PEFT configuration's ``target_modules``.

    Args:
        model: Freshly built, before wrapping.
        kind: The ``peft_type``, upper case.
        given: What the user asked for: ``None``, a preset, name suffixes, or a regular expression as PEFT reads it.
        layers: The configuration's ``layers_to_transform``. PEFT ignores it for modules that are named in full.

    Raises:
        InputError: a name that matches no module of the model.
    """
    if kind in PLACED_BY_PEFT:
        return given
    if given is None or (isinstance(given, str) and given in PRESETS):
        names = default_targets(model, kind) if given is None else resolve_targets(model, given)
        suffixes = shortest_suffixes(model, names)
        return suffixes if layers is None or set(suffixes) != set(names) else _in_layers(names, layers)
    if isinstance(given, str):
        return given if _matched(model, given) else list(resolve_targets(model, given))
    suffixes = [str(suffix) for suffix in given]
    if not all(_matched(model, suffix, regular=False) for suffix in suffixes) or not suffixes:
        return list(resolve_targets(model, tuple(suffixes)))
    return suffixes


def default_targets(model: nn.Module, kind: str) -> tuple[str, ...]:
    """Full names of the modules a method is put on unasked: norms, IA3's own choice, or query and value projections."""
    if kind == "LN_TUNING":
        return norm_modules(model)
    if kind == "IA3":
        return rescaled_modules(model)
    return resolve_targets(model, None)


def norm_modules(model: nn.Module) -> tuple[str, ...]:
    """Full names of the backbone's normalisation layers (those with weights)."""
    heads = head_modules(model)
    inside = {id(module) for module in backbone(model).modules()}
    return tuple(
        name
        for name, module in model.named_modules()
        if "norm" in type(module).__name__.lower()
        and id(module) in inside
        and next(module.parameters(recurse=False), None) is not None
        and not any(name.startswith(f"{head}.") for head in heads)
    )


def stored_transposed(model: nn.Module, targets: list[str] | str | None) -> bool:
    """Whether all targeted modules store their weight as (in, out), which PEFT calls ``fan_in_fan_out``."""
    modules = [
        module
        for name, module in model.named_modules()
        if targets and (re.fullmatch(targets, name) if isinstance(targets, str) else _ends_with_any(name, targets))
    ]
    return bool(modules) and all(is_conv1d(module) for module in modules)


def _in_layers(names: tuple[str, ...], layers: Any) -> list[str]:
    """The names inside these layers; the first number in a name is its layer."""
    wanted = {int(layers)} if isinstance(layers, int) else {int(layer) for layer in layers}
    numbered = [(name, re.search(r"\.(\d+)\.", name)) for name in names]
    return [name for name, found in numbered if found is None or int(found[1]) in wanted]


def _matched(model: nn.Module, pattern: str, *, regular: bool = True) -> bool:
    names = [name for name, _ in model.named_modules()]
    if not regular:
        return any(_ends_with_any(name, [pattern]) for name in names)
    try:
        expression = re.compile(pattern)
    except re.error:
        return False
    return any(expression.fullmatch(name) for name in names)


def _ends_with_any(name: str, suffixes: list[str]) -> bool:
    return any(name == suffix or name.endswith(f".{suffix}") for suffix in suffixes)
