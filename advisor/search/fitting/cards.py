"""The smallest known card that holds a set-up."""

from __future__ import annotations

from collections.abc import Sequence

from advisor.core.budget import Budget
from advisor.core.device import DeviceProfile
from advisor.core.errors import AdvisorError
from advisor.core.model import ModelSpec
from advisor.core.strategy import StrategyConfig
from advisor.costmodel.model import CostModel
from advisor.hardware.backends import backend_of
from advisor.search.fitting.records import CardFit, FitRequest, Switches
from advisor.search.fitting.setups import on_card

HOPELESS_SHARE = 0.85
"""A card smaller than this share of what the same point needs on another card is passed over without a trace:
context, workspaces and allocator differ by less than that, and data types of the same width are used."""


class Cards:
    """Looks for the smallest card.

    Args:
        cost_model: Whose traces serve for every card with the same operators.
        profiles: Known devices; only cards are looked at.
    """

    def __init__(self, cost_model: CostModel, profiles: Sequence[DeviceProfile]) -> None:
        cards = [profile for profile in profiles if not backend_of(profile).is_host]
        self._cards = sorted(cards, key=lambda profile: (profile.memory_bytes, profile.id))
        self._cost_model = cost_model
        self._models: dict[str, CostModel] = {}

    def smallest(
        self, model: ModelSpec, strategy: StrategyConfig, setup: Switches, question: FitRequest, need_bytes: int | None
    ) -> CardFit | None:
        """The smallest card by capacity whose upper quantile at the asked point stays inside it.

        Args:
            model: What is to be trained.
            strategy: How.
            setup: Switches; a card without bfloat16 gets float16 where that can train.
            question: The point; its limit plays no part.
            need_bytes: What it needs on another card; ``None`` when that is not known.
        """
        need = need_bytes or 0
        for card in self._cards:
            there = on_card(setup, card, strategy)
            if there is None or card.memory_bytes < HOPELESS_SHARE * need:
                continue
            execution = there.execution(question.micro_batch_size, question.seq_length, padded=question.padded)
            try:
                memory = self._model(card).memory(model, strategy, execution, same_length=True)
            except AdvisorError:
                continue  # its kernels cannot be traced; a larger card may use others
            need = memory.quantile_bytes(question.safety_level)
            if Budget(safety_level=question.safety_level).check_figures({"memory_bytes": need}, card).ok:
                return CardFit(card.id, card.memory_bytes, need, there.dtype, there.amp)
        return None

    def _model(self, card: DeviceProfile) -> CostModel:
        if card.id not in self._models:
            self._models[card.id] = self._cost_model.on(card)
        return self._models[card.id]
