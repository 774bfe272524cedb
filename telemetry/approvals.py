"""Approvals: each call is asked about once, however many events announce it.

A wait runs from the first request to the first decision.
"""

from __future__ import annotations

import heapq
from bisect import insort
from collections import OrderedDict
from collections.abc import Callable
from itertools import islice
from typing import Any, NamedTuple

from agent_runtime.events.base_event import BaseEvent
from telemetry.spans import HUMAN, decision_of

MAX_KEPT = 20_000
# Requests of one call id that are kept together; more only while some of them wait.
MAX_REPEATS, MAX_PENDING = 64, 512

# (correlation id, or session where there is none; tool; call id)
Name = tuple[str, str, str]
# (time in microseconds, event id)
Moment = tuple[int, str]


class Wait(NamedTuple):
    """A settled wait: its turn if it has one, the first request's event, and both ends in microseconds since 1970."""

    correlation_id: str | None
    opening_id: str
    tool: str
    decision: str
    requested_us: int
    decided_us: int


class Decision(NamedTuple):
    """A decision, or that time ran out."""

    time_us: int
    event_id: str
    cause: str | None
    decision: str


class Approval:
    """All that was asked and decided about one call id; models reuse call ids, so there may be several requests.

    Attributes:
        requests: by type of the announcing event; the n-th of each type announce the same request.
        decisions: by time. counted: ids of those whose wait has been counted.
        due_ns: when the waits are counted that have not been.
    """

    __slots__ = ("correlation_id", "tool", "requests", "decisions", "counted", "due_ns")

    def __init__(self, correlation_id: str | None, tool: str) -> None:
        self.correlation_id = correlation_id
        self.tool = tool
        self.requests: dict[str, list[Moment]] = {}
        self.decisions: list[Decision] = []
        self.counted: list[str] = []
        self.due_ns = 0

    def asked(self) -> list[Moment]:
        """The first announcement of each request."""
        count = max((len(moments) for moments in self.requests.values()), default=0)
        return [min(moments[nth] for moments in self.requests.values() if len(moments) > nth) for nth in range(count)]

    def decided(self) -> dict[int, Decision]:
        """The decision on each request: the first that names it as its cause, else one that names none, in order."""
        request_of = {event_id: nth for moments in self.requests.values() for nth, (_, event_id) in enumerate(moments)}
        found: dict[int, Decision] = {}
        rest: list[Decision] = []
        for decision in self.decisions:
            nth = request_of.get(decision.cause or "")
            if nth is None:
                rest.append(decision)
            else:
                found.setdefault(nth, decision)
        undecided = (nth for nth in range(len(self.asked())) if nth not in found)
        found.update(zip(list(undecided), rest, strict=False))
        return found

    def is_full(self, pending: bool) -> bool:
        """Whether another is to be begun in its place: each further event costs what all that it holds cost."""
        held = max(len(self.decisions), *map(len, self.requests.values()), 0)
        return held >= (MAX_PENDING if pending else MAX_REPEATS)

    def pending(self) -> list[Moment]:
        """The requests that wait for a decision."""
        decided = self.decided()
        return [moment for nth, moment in enumerate(self.asked()) if nth not in decided]


class Approvals:
    """All approvals that are pending, and the latest that are not.

    Args:
        grace_ns: after request and decision have both come, the wait is counted this much later.
        waited: counts a wait.
        requested: counts a call that was asked about, by tool.

    Attributes:
        alarms: a heap of (when to count, what); always the same list.
    """

    types: frozenset[str] = frozenset((*HUMAN.opens, *HUMAN.closes))

    def __init__(self, grace_ns: int, waited: Callable[[Wait], None], requested: Callable[[str], None]) -> None:
        self._grace_ns = grace_ns
        self._waited = waited
        self._requested = requested
        self._approvals: OrderedDict[Name, Approval] = OrderedDict()
        self._pending: dict[Name, Approval] = {}
        self.alarms: list[tuple[int, Name]] = []

    def take(self, event: BaseEvent) -> None:
        """Take an event of one of ``types``."""
        tool = event.data["tool_name"]
        name = (event.correlation_id or event.session_id or "", tool, event.data["call_id"])
        approval = self._approvals.get(name)
        if approval is not None and approval.is_full(name in self._pending):
            self._count(approval)
            approval = None
        if approval is None:
            approval = self._approvals[name] = Approval(event.correlation_id, tool)
            if len(self._approvals) > MAX_KEPT:
                self._forget_one()
        if event.event_type in HUMAN.opens:
            before = len(approval.asked())
            insort(approval.requests.setdefault(str(event.event_type), []), (event.time_us, event.event_id))
            if len(approval.asked()) > before:
                self._requested(tool)
        else:
            decision = decision_of(event.event_type, event.data.get("decision"))
            insort(
                approval.decisions, Decision(event.time_us, event.event_id, event.causation_id, decision), key=_moment
            )
        if approval.pending():
            self._pending[name] = approval
        else:
            self._pending.pop(name, None)
        if approval.decisions and approval.requests:
            approval.due_ns = event.recorded_ns + self._grace_ns
            heapq.heappush(self.alarms, (approval.due_ns, name))

    def due(self, now_ns: int) -> None:
        """Count the waits that are settled."""
        alarms = self.alarms
        while alarms and alarms[0][0] < now_ns:
            due_ns, name = heapq.heappop(alarms)
            approval = self._approvals.get(name)
            if approval is None or approval.due_ns != due_ns:
                continue
            self._count(approval)

    def _count(self, approval: Approval) -> None:
        asked = approval.asked()
        for nth, decision in sorted(approval.decided().items()):
            if decision.event_id not in approval.counted:
                approval.counted.append(decision.event_id)
                requested_us, opening_id = asked[nth]
                ends = (requested_us, decision.time_us)
                self._waited(Wait(approval.correlation_id, opening_id, approval.tool, decision.decision, *ends))

    def _forget_one(self) -> None:
        """Make room: one of the oldest that is over, else the oldest."""
        oldest = list(islice(self._approvals, 100))
        name = next((name for name in oldest if name not in self._pending), oldest[0])
        del self._approvals[name]
        self._pending.pop(name, None)

    def pending_by_tool(self) -> dict[str, int]:
        """How many calls wait for a person."""
        counts: dict[str, int] = {}
        for approval in self._pending.values():
            counts[approval.tool] = counts.get(approval.tool, 0) + len(approval.pending())
        return counts

    def oldest_pending_us(self) -> int | None:
        """When the call that waits longest was asked about, in microseconds since 1970; None if none waits."""
        return min((moment[0] for approval in self._pending.values() for moment in approval.pending()), default=None)

    def dump(self) -> list[Any]:
        """Plain data for ``load``."""
        return [
            [name, a.correlation_id, a.requests, [tuple(decision) for decision in a.decisions], a.counted, a.due_ns]
            for name, a in self._approvals.items()
        ]

    def load(self, rows: list[Any]) -> None:
        """Take over what ``dump`` gave."""
        self._approvals.clear()
        self._pending.clear()
        self.alarms.clear()
        for row, correlation_id, requests, decisions, counted, due_ns in rows:
            name: Name = (row[0], row[1], row[2])
            approval = self._approvals[name] = Approval(correlation_id, name[1])
            approval.requests = {kind: [(time, event) for time, event in moments] for kind, moments in requests.items()}
            approval.decisions = [Decision(*decision) for decision in decisions]
            approval.counted = counted
            approval.due_ns = due_ns
            if approval.pending():
                self._pending[name] = approval
            if len(counted) < len(approval.decisions):
                heapq.heappush(self.alarms, (due_ns, name))


def _moment(decision: Decision) -> Moment:
    return (decision.time_us, decision.event_id)
