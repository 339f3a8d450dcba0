"""Which trials of a study are trained in one pass over one frozen model, and why others are not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from advisor.core.cost import PackEstimate
from advisor.core.errors import AdvisorError
from advisor.core.events import OnEvent
from advisor.core.pack import NEVER_PACK, PackChoice
from advisor.core.plan import Plan
from advisor.core.units import format_bytes
from advisor.search.study.context import PackPredictor, PackRunner, StudyContext
from advisor.strategies.packing_rules import pack_problem

PAYS_FROM = 1.1
"""Predicted speed-up from which packing is said to pay. Below it the gain is within the error of predicted step times,
and within what steps differ from one run to the next: on CPUs 1.00 to 1.06 was predicted, 0.9 to 1.3 measured."""


@dataclass
class TrialPacking:
    """What may be packed, of one call.

    Attributes:
        setting: Of the study.
        choice: Of the user.
        runner: Trains packs; ``None`` where they cannot be trained.
        predict: What a pack costs.
        on_event: Told in one line why trials run alone, each reason once.
        most: Members at most by what is known so far; below ``choice.members`` after a pack that did not fit.
    """

    setting: StudyContext
    choice: PackChoice = NEVER_PACK
    runner: PackRunner | None = None
    predict: PackPredictor | None = None
    on_event: OnEvent | None = None
    most: int = 0
    _said: set[str] = field(default_factory=set)
    _estimates: dict[tuple[object, ...], PackEstimate | None] = field(default_factory=dict)
    _speed_ups: dict[tuple[object, ...], float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.most = self.choice.members if self.runner is not None and self.predict is not None else 1

    @property
    def off(self) -> bool:
        """Whether nothing is packed (any more)."""
        return self.choice.off or self.most < 2

    def members_for(self, plan: Plan) -> int:
        """How many trials, at most, are trained together with this one, itself included; 1 when it runs alone."""
        if self.off:
            return 1
        problem = pack_problem([plan])
        if problem is not None:
            self._say_if_asked_for(f"{plan.strategy.method} is not packed: {problem}")
            return 1
        if plan.predicted is None:
            self._say_if_asked_for("what was not predicted is not packed")
            return 1
        if self.choice.only_if_it_pays and not self._pays(plan):
            return 1
        return self.most

    def _speed_up(self, plan: Plan) -> float:
        key = (plan.execution, plan.strategy.method, plan.strategy.rank, self.most)
        if key not in self._speed_ups:
            self._speed_ups[key] = self.setting.pack_speed_up(plan, self.most)
        return self._speed_ups[key]

    def _pays(self, plan: Plan) -> bool:
        speed_up = self._speed_up(plan)
        if speed_up >= PAYS_FROM:
            return True
        self._say(
            f"trials run one by one: {self.most} in one pass are predicted to be {speed_up:.2f} times as fast, "
            "which is within the error",
            once_for="it does not pay",
        )
        return False

    def agree(self, plan: Plan, other: Plan) -> bool:
        """Whether two runs may be members of one pack: what ``pack_problem`` asks for, and as many epochs, so that none
        is left to train alone at the end.
        """
        same_length = plan.strategy.num_train_epochs == other.strategy.num_train_epochs
        return same_length and other.predicted is not None and pack_problem([plan, other]) is None

    def fitting(self, plans: Sequence[Plan], time_limit_s: float) -> int:
        """How many of the plans, from the first on, fit into the memory budget together; at least 1.

        Args:
            plans: That agree.
            time_limit_s: What the prediction may take.
        """
        count, limit = len(plans), self.setting.budget.memory_limit_bytes(self.setting.cost_model.device)
        while count > 1:
            if sum(_alone_bytes(plan, self.setting.budget.safety_level) for plan in plans[:count]) <= limit:
                return count  # a pack needs no more than its members' own processes at the same time
            needed = self._needed_bytes(plans[:count], time_limit_s)
            if needed is None:
                return 1
            if needed <= limit:
                return count
            self._say(
                f"a pack of {count} does not fit: it needs {format_bytes(int(needed))} of {format_bytes(limit)}",
                once_for="it does not fit",
            )
            alone = _alone_bytes(plans[0], self.setting.budget.safety_level)
            per_member = max(1.0, (needed - alone) / (count - 1))
            count = max(1, min(count - 1, 1 + int(max(0.0, limit - alone) / per_member)))
            self.most = min(self.most, count)
        return 1

    def _needed_bytes(self, plans: Sequence[Plan], time_limit_s: float) -> float | None:
        """What the device must have for a pack: what the first member needs alone, with its margin, and what the others
        add to its step. While it is loaded, a member has weights of its own until it gives them up.
        """
        estimate = self._estimate(plans, time_limit_s)
        first = plans[0].predicted
        if estimate is None or first is None:
            return None
        memory = first.memory
        peak_bytes = max(estimate.allocated_bytes, 2 * memory.breakdown.weights_bytes)
        added_bytes = max(0, peak_bytes - memory.allocated_bytes)
        upper_bytes = _alone_bytes(plans[0], self.setting.budget.safety_level)
        return upper_bytes + added_bytes * upper_bytes / memory.device_bytes

    def _estimate(self, plans: Sequence[Plan], time_limit_s: float) -> PackEstimate | None:
        first = plans[0]
        key = (first.execution, first.strategy.method, tuple(sorted(plan.strategy.rank or 0 for plan in plans)))
        if key not in self._estimates and self.predict is not None:
            strategies = [plan.strategy for plan in plans]
            try:
                found = self.predict(
                    *(self.setting.cost_model, first.model, strategies, first.execution),
                    time_limit_s=max(0.1, time_limit_s),
                )
                reason = "there was no time to predict its memory"
            except AdvisorError as failure:
                found, reason = None, failure.message
            if found is None:
                self.give_up(reason)
            self._estimates[key] = found
        return self._estimates.get(key)

    def give_up(self, reason: str) -> None:
        """Pack nothing more in this call."""
        self.most = 1
        self._say(f"trials run one by one: {reason}")

    def failed(self, members: int, left: int, reason: str) -> None:
        """Of a pack of so many, some say nothing and run alone; where all do, no pack is as large again."""
        if left == members:
            self.most = min(self.most, members - 1)
        self._say(f"of a pack of {members}, {left} failed and run alone: {reason}")

    @property
    def trains(self) -> PackRunner:
        """What trains packs.

        Raises:
            RuntimeError: packs cannot be trained; ``members_for`` says so.
        """
        if self.runner is None:
            raise RuntimeError("there is no runner of packs")
        return self.runner

    def share_s(self, plan: Plan, alone_s: float) -> float:
        """Expected wall clock of a pack for each of its members, from that of one alone."""
        speed_up = self._speed_up(plan)
        return alone_s / speed_up if speed_up >= PAYS_FROM else alone_s

    def alone(self, why: str) -> None:
        """A trial that could be packed runs alone."""
        self._say_if_asked_for(f"a run alone: {why}")

    def _say_if_asked_for(self, text: str) -> None:
        """Said to a user who asked for packs."""
        if not self.choice.only_if_it_pays:
            self._say(text)

    def _say(self, text: str, *, once_for: str = "") -> None:
        if self.on_event is not None and (once_for or text) not in self._said:
            self.on_event({"kind": "note", "text": f"packing: {text}"})
        self._said.add(once_for or text)


def _alone_bytes(plan: Plan, level: float) -> float:
    """What a plan needs on its own, with the margin of its prediction."""
    return plan.predicted.memory.quantile_bytes(level) if plan.predicted is not None else 0.0
