"""Who is trained in one pass with a trial: others that wait for the same rung, and new points."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from advisor.core.plan import Plan
from advisor.search.study.agenda import FIRST_PREDICTION_SHARE, Agenda
from advisor.search.study.durations import DurationEstimator
from advisor.search.study.packing import TrialPacking
from advisor.search.study.records import Origin, ParamValue, TrialSummary
from advisor.search.study.stop_rules import StopRules
from advisor.search.study.storage import StudyStorage
from advisor.search.study.trial_history import TrialHistory

MAX_ATTEMPTS = 3
"""A run during which the study was killed this often is taken for the culprit and told as failed; before its last
attempt it shows on its own whether it is."""

MAX_FRESH = 16
"""New points that are drawn for one pack at most, if they turn out not to fit in with the others."""


@dataclass
class PackGathering:
    """Finds the members of packs.

    Attributes:
        packing: What may be packed.
        at_hand: Open trials that this process has taken and not postponed, those that climb next first.
        ready: Plan and rows of a trial's next run; ``None`` when it is closed or postponed instead.
        take: Takes the next trial that is queued.
    """

    packing: TrialPacking
    history: TrialHistory
    storage: StudyStorage
    agenda: Agenda
    pace: DurationEstimator
    rules: StopRules
    at_hand: Callable[[], list[int]]
    ready: Callable[[int], tuple[Plan, int] | None]
    take: Callable[[], int]

    def pack(self, number: int, plan: Plan, rows: int) -> list[tuple[int, Plan]]:
        """The trials that are trained in one pass with this one, itself the first, and their plans."""
        pack, packing = [(number, plan)], self.packing
        wanted = packing.members_for(plan)
        if wanted < 2:
            return pack
        if not self.pace.clock.has_measured:
            packing.alone("the first one shows how long runs take")
            return pack
        if not self._may_be_packed(number, rows):
            packing.alone(f"the study was killed {MAX_ATTEMPTS - 1} times while it was trained with others")
            return pack
        each_s = packing.share_s(plan, self.pace.next_s(self.history.trials[number]))
        for other in self._others(number, rows, each_s, pack):
            ready = self.ready(other)
            if ready is None or ready[1] != rows or not self._may_be_packed(other, rows):
                continue
            if packing.agree(plan, ready[0]):
                pack.append((other, ready[0]))
            if len(pack) >= wanted:
                break
        if len(pack) > 1:
            limit_s = min(FIRST_PREDICTION_SHARE * self.pace.clock.budget_s, self.pace.clock.remaining_s - each_s)
            pack = pack[: packing.fitting([its_plan for _, its_plan in pack], limit_s)]
        else:
            packing.alone("no other configuration at hand may share its pass, or there is no time for it")
        self.storage.save_pack([member for member, _ in pack], rows)
        return pack

    def _may_be_packed(self, number: int, rows: int) -> bool:
        return self.storage.attempts(number, rows) < MAX_ATTEMPTS - 1

    def _others(self, number: int, rows: int, each_s: float, pack: list[tuple[int, Plan]]) -> Iterator[int]:
        """Trials that could be trained with one, as long as the time suffices for one more: those that it was begun
        with, else those that wait for the same rung, then new points.
        """
        begun, waiting = self.storage.pack_of(number, rows), self.at_hand()
        first = self.history.trials[number]
        for other in [member for member in begun or waiting if member != number and member in waiting]:
            if self.history.next_rows(self.history.trials[other]) == rows:
                if (len(pack) + 1) * each_s > self.pace.clock.remaining_s:
                    return
                yield other
        if begun or first.started:
            return
        for _ in range(MAX_FRESH):
            fresh = self._fresh(first, len(pack), each_s)
            if fresh is None:
                return
            yield fresh

    def _fresh(self, first: TrialSummary, members: int, each_s: float) -> int | None:
        """A new trial that may be trained with ``first``, as the agenda has it next; ``None`` when there is none."""
        if not self.storage.waiting:
            found = self._next_point(first, members, members * each_s)
            if found is None:
                return None
            self.storage.enqueue(*found)
        return self.take()

    def _next_point(
        self, first: TrialSummary, members: int, pack_s: float
    ) -> tuple[dict[str, ParamValue], Origin] | None:
        if first.origin == "race" and self.agenda.race_goes_on(self.history.trials):
            needed_s = pack_s + self.pace.opening_needs_s()
            if not self.rules.reason_to_stop(needed_s, members):
                return self.agenda.opening(self.history.trials, needed_s)
        elif first.origin == "sampled":
            needed_s = pack_s + self.rules.sample_needs_s
            if not self.rules.reason_to_stop(needed_s, members) and not self.rules.reason_not_to_sample():
                return self.agenda.neighbour(first.params, self.rules.setting.seed), "sampled"
        return None
