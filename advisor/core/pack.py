"""Packs: several runs trained in one pass over one frozen model; which of them a run was, and who wants them."""

from __future__ import annotations

from dataclasses import dataclass

from advisor.core.errors import InputError

AUTO_MEMBERS = 4
"""Members of a pack at most where nobody says how many: samples of one pack are drawn without each other's results."""


@dataclass(frozen=True)
class PackMembership:
    """That a run was trained in a pack: its times, memory and energy are those of the whole pack.

    Attributes:
        members: How many runs were trained in one pass.
        position: Of this one among them, from 0.
    """

    members: int
    position: int


@dataclass(frozen=True)
class PackChoice:
    """Whether the trials of a study are packed.

    Attributes:
        members: Trials in one pass, at most; 1 trains each on its own.
        only_if_it_pays: Pack only where the prediction says that it saves time.
    """

    members: int
    only_if_it_pays: bool = False

    @property
    def off(self) -> bool:
        """Whether nothing is packed."""
        return self.members < 2


NEVER_PACK = PackChoice(1)
AUTO_PACK = PackChoice(AUTO_MEMBERS, only_if_it_pays=True)
PACK_WORDS = {"auto": AUTO_PACK, "off": NEVER_PACK}


def pack_choice(value: str | int) -> PackChoice:
    """A choice as a user gives it: ``"auto"``, ``"off"``, or how many trials share a pass at most.

    Raises:
        InputError: anything else.
    """
    text = str(value).strip().lower()
    if text in PACK_WORDS:
        return PACK_WORDS[text]
    if text.isdecimal() and int(text) >= 1:
        return PackChoice(int(text))
    raise InputError(
        f"a pack must be auto, off or a number of trials >= 1, but got {value!r}",
        fix="for example --pack auto, --pack off or --pack 4",
    )
