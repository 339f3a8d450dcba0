"""What will work on a machine and what to do about the rest: one function per check, over a machine's facts.

A check that is a ``problem`` keeps training from working, on the machine or on a card that it has; everything else that
is worth saying is a ``note``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from advisor.core.units import format_bytes
from advisor.hardware.backends import get_backend
from advisor.hardware.backends.contact import Check
from advisor.hardware.inspection import Machine, package_name

LEAST_CARD_BYTES = 2**30
"""A context takes about half of it, a small model with its activations the rest."""
LEAST_RAM_BYTES = 2**30
"""torch and transformers hold 0.5 to 0.8 GiB before there is a model."""
LEAST_DISK_BYTES, USUAL_DISK_BYTES = 2**30, 10 * 2**30
"""A small model with its checkpoints; a 7B model in half precision has 13 GiB, one of 3B 6 GiB."""
USUAL_FREE_SHARE = 0.5
"""Of RAM: below this, something else is running."""
CARD_FREE_SHARE = 0.9
"""Of a card's memory: a desktop's screen takes a few percent."""
PROBE = "`advisor probe`"
OWN_CHECK = {"bitsandbytes", "nvidia-ml-py", "torch"}
"""Packages whose absence another check judges."""


def check_torch(machine: Machine) -> Iterator[Check]:
    """Whether torch is installed and can be imported."""
    value, reason = machine.trial.facts.get("torch", ("unknown", machine.trial.ended))
    if not machine.torch_version:
        yield Check("torch", "problem", "torch is not installed", "`pip install torch`")
    elif value == "no":
        action = "`pip check`, then `pip install --force-reinstall torch`"
        yield Check("torch", "problem", f"importing torch {machine.torch_version} fails: {reason}", action)
    elif value != "yes":
        found = f"torch {machine.torch_version} is installed; {reason}"
        yield Check("torch", "note", found, f"try again when the machine is idle, or {PROBE}, which takes more time")
    else:
        where = get_backend(machine.trial.backend).title if machine.trial.backend else "unknown"
        yield Check("torch", "ok", f"torch {machine.torch_version}; training uses {where}")


def check_devices(machine: Machine) -> Iterator[Check]:
    """Whether torch, driver and card fit together."""
    for name, driver in machine.drivers.items():
        yield from get_backend(name).contact_checks(machine.torch_views[name], driver)


def check_dtypes(machine: Machine) -> Iterator[Check]:
    """In which data types training works."""
    tried = _tried(machine, "dtype ")
    working = [name for name, (value, _) in tried.items() if value == "yes"]
    refused = [f"{name} ({reason})" for name, (value, reason) in tried.items() if value == "no"]
    found = f"{', '.join(working) or 'none'} work" + (f"; not {'; '.join(refused)}" if refused else "")
    full = "float32"
    if all(value == "unknown" for value, _ in tried.values()):
        reasons = [reason for _, reason in tried.values()] or [machine.trial.ended]
        yield Check("data types", "note", f"not known: {reasons[0]}", PROBE)
    elif tried.get(full, ("unknown", ""))[0] == "no":
        yield Check("data types", "problem", found, "`pip install --force-reinstall torch`")
    elif not set(working) - {full}:
        yield Check("data types", "note", found, f"plans compute in {full}; nothing to do")
    else:
        yield Check("data types", "ok", found)


def check_flash(machine: Machine) -> Iterator[Check]:
    """Whether attention runs in kernels that keep no score matrix."""
    value, reason = _outcome(machine, "attention flash")
    package = machine.packages.get("flash-attn")
    beside = f"; flash-attn {package}" if package else "; the package flash-attn is not installed, plans use sdpa"
    if value == "yes":
        yield Check("flash attention", "ok", f"torch's own kernel works ({reason}){beside}")
    elif value == "no":
        action = f"nothing; {PROBE} finds the kernels that plans use instead"
        yield Check("flash attention", "note", f"torch's own kernel does not work: {reason}", action)
    else:
        yield Check("flash attention", "note", f"not known: {reason}", PROBE)


def check_bitsandbytes(machine: Machine) -> Iterator[Check]:
    """Whether QLoRA and optimizers with 8-bit states work."""
    name, loss = "bitsandbytes", "QLoRA and 8-bit optimizers are left out"
    version = machine.packages.get(name, "")
    wanted = next((text for text in machine.required if package_name(text) == name), name)
    tried = {fact: outcome for fact, outcome in machine.trial.facts.items() if fact.startswith(name)}
    failed = [f"{fact}: {reason}" for fact, (value, reason) in tried.items() if value == "no"]
    value, reason = _outcome(machine, name)
    if not version:
        yield Check(name, "note", f"not installed: {loss}", f"`pip install '{wanted}'`")
    elif failed:
        action = f"`pip install --force-reinstall '{wanted}'`, then `python -m bitsandbytes` says what is missing"
        yield Check(name, "note", f"{'; '.join(failed)}; {loss}", action)
    elif value == "yes":
        yield Check(name, "ok", reason)
    else:
        yield Check(
            name, "note", f"version {version} is installed, whether its kernels work is not known: {reason}", PROBE
        )


def check_card_memory(machine: Machine) -> Iterator[Check]:
    """Whether other processes hold a card's memory."""
    for driver in machine.drivers.values():
        known = [(card, card.free_bytes, card.total_bytes) for card in driver.cards]
        sizes = [(card.name, free, total) for card, free, total in known if free is not None and total]
        if not sizes:
            continue
        found = "; ".join(f"{name}: {format_bytes(free)} of {format_bytes(total)} free" for name, free, total in sizes)
        if all(free < LEAST_CARD_BYTES for _, free, _ in sizes):
            yield Check("device memory", "problem", found, "end what holds it: `nvidia-smi` lists the processes")
        elif any(free < CARD_FREE_SHARE * total for _, free, total in sizes):
            action = "plans count with what is free; `nvidia-smi` lists the processes"
            yield Check("device memory", "note", found, action)
        else:
            yield Check("device memory", "ok", found)


def check_ram(machine: Machine) -> Iterator[Check]:
    """Whether there is memory for a training process."""
    found = f"{format_bytes(machine.available_bytes)} of {format_bytes(machine.memory_bytes)} free"
    if machine.available_bytes < LEAST_RAM_BYTES:
        yield Check("RAM", "problem", found, "end other programs: `ps aux --sort=-rss` lists the largest first")
    elif machine.available_bytes < USUAL_FREE_SHARE * machine.memory_bytes:
        yield Check("RAM", "note", found, "`ps aux --sort=-rss` lists the largest programs first")
    else:
        yield Check("RAM", "ok", found)


def check_load(machine: Machine) -> Iterator[Check]:
    """Whether something else keeps the processor busy."""
    if machine.busy:
        action = f"steps take longer than predicted, and what is measured now is too slow; {PROBE} when it is idle"
        yield Check("load", "note", machine.busy, action)
    else:
        yield Check("load", "ok", "the processor is free")


def check_disk(machine: Machine) -> Iterator[Check]:
    """Whether results, models and what was measured can be stored."""
    for folder in machine.folders:
        if folder.free_bytes is None:
            yield Check(folder.purpose, "note", f"{folder.path} does not answer", f"`df -h '{folder.path}'`")
            continue
        found = f"{folder.path}: {format_bytes(folder.free_bytes)} free"
        if not folder.writable:
            action = f"choose another folder, or `chmod u+w '{folder.path}'`"
            yield Check(folder.purpose, "problem", f"{folder.path} cannot be written to", action)
        elif folder.free_bytes < LEAST_DISK_BYTES:
            yield Check(folder.purpose, "problem", found, "delete files: `du -xh --max-depth=1 ~` shows the sizes")
        elif folder.free_bytes < USUAL_DISK_BYTES:
            yield Check(folder.purpose, "note", found, "enough for small models only; `df -h` lists other disks")
        else:
            yield Check(folder.purpose, "ok", found)


def check_packages(machine: Machine) -> Iterator[Check]:
    """Whether the installed packages have supported versions."""
    from packaging.requirements import Requirement

    name, wrong, missing = "packages", [], []
    for requirement in map(Requirement, machine.required):
        version = machine.packages.get(requirement.name, "")
        if not version and requirement.name not in OWN_CHECK:
            missing.append(requirement)
        elif version and not requirement.specifier.contains(version, prereleases=True):
            wrong.append(requirement)
    if wrong or missing:
        found = [f"{one.name} {machine.packages[one.name]} instead of {one.specifier}" for one in wrong]
        found += [f"{one.name} is not installed" for one in missing]
        install = " ".join(f"'{one.name}{one.specifier}'" for one in (*wrong, *missing))
        yield Check(name, "problem", "; ".join(found), f"`pip install {install}`")
    elif not machine.required:
        yield Check(name, "note", "the advisor is not installed as a package", "`pip install .` in its repository")
    else:
        yield Check(name, "ok", f"{len(machine.required)} required packages have supported versions")


def check_profile(machine: Machine) -> Iterator[Check]:
    """Whether this machine was probed."""
    if not machine.profile_name:
        yield Check("probe", "note", "this machine has not been probed: its speed is unknown", PROBE)
    elif machine.trial.backend and machine.trial.backend != machine.profile_type:
        now, then = (get_backend(name).title for name in (machine.trial.backend, machine.profile_type))
        yield Check("probe", "note", f"{machine.profile_name} was probed ({then}), but training uses {now}", PROBE)
    else:
        yield Check("probe", "ok", f"{machine.profile_name} was probed")


def check_hub(machine: Machine) -> Iterator[Check]:
    """Whether models can be downloaded."""
    hub = machine.hub
    if hub.offline_by:
        action = f"`unset {hub.offline_by.partition('=')[0]}` to download models"
        yield Check("hub", "ok", f"offline by setting ({hub.offline_by}): local and cached models only", action)
    elif hub.failure:
        action = (
            "use a local folder as MODEL, or set HF_ENDPOINT or HTTPS_PROXY; `export HF_HUB_OFFLINE=1` saves waiting"
        )
        yield Check("hub", "note", f"{hub.address} cannot be reached: {hub.failure}", action)
    else:
        yield Check("hub", "ok", f"{hub.address} answers")


CHECKS: tuple[Callable[[Machine], Iterator[Check]], ...] = (
    *(check_torch, check_devices, check_dtypes, check_flash, check_bitsandbytes, check_card_memory, check_ram),
    *(check_load, check_disk, check_packages, check_profile, check_hub),
)


def examine(machine: Machine) -> tuple[Check, ...]:
    """All checks, in the order in which they are worth reading."""
    return tuple(check for function in CHECKS for check in function(machine))


def _tried(machine: Machine, prefix: str) -> dict[str, tuple[str, str]]:
    return {name.removeprefix(prefix): out for name, out in machine.trial.facts.items() if name.startswith(prefix)}


def _outcome(machine: Machine, name: str) -> tuple[str, str]:
    """What a trial gave; where it did not get so far, what the last probe of the same kind of device found."""
    value, reason = machine.trial.facts.get(name, ("unknown", machine.trial.ended))
    earlier = machine.profile_facts.get(name, "")
    same = machine.trial.backend in ("", machine.profile_type)
    if value == "unknown" and earlier.startswith(("yes", "no (")) and same:
        return earlier.partition(" ")[0], f"at the last probe: {earlier.partition(' ')[2].strip('()')}"
    return value, reason
