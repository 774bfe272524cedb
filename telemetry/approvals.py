"""Approvals: each call is asked about once, however many events announce it; a wait runs from the first request to
the first decision."""

from __future__ import annotations

import heapq
from bisect import insort
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, NamedTuple

from agent_runtime.events.base_event import BaseEvent
from telemetry.spans import HUMAN, decision_of

MAX_KEPT = 20_000

Name = tuple[str, str]


class Wait(NamedTuple):
    """A settled wait: its turn (or session), the first request's event, and when both ends happened, in microseconds
    since 1970."""

    scope: str
    opening_id: str
    tool: str
    decision: str
    requested_us: int
    decided_us: int


# (time in microseconds, event id)
Moment = tuple[int, str]


class Approval:
    """All that was asked and decided about one call id; models reuse call ids, so there may be several of each.

    Attributes:
        requests: by type of the announcing event; the n-th of each type announce the same request.
        decisions: moment, decision; by time. counted: how many waits have been counted, from the first on.
    """

    __slots__ = ("tool", "requests", "decisions", "counted", "due_ns")

    def __init__(self, tool: str) -> None:
        self.tool = tool
        self.requests: dict[str, list[Moment]] = {}
        self.decisions: list[tuple[Moment, str]] = []
        self.counted = 0
        self.due_ns = 0

    @property
    def asked(self) -> int:
        """How often it was asked about."""
        return max((len(moments) for moments in self.requests.values()), default=0)

    @property
    def pending(self) -> int:
        """How many requests wait for a decision."""
        return max(0, self.asked - len(self.decisions))

    def request(self, nth: int) -> Moment:
        """The first announcement of the n-th request."""
        return min(moments[nth] for moments in self.requests.values() if len(moments) > nth)


class Approvals:
    """All approvals that are pending, and the latest that are not.

    Args:
        grace_ns: after request and decision have both come, the wait is counted this much later.
        late_ns: a decision without a request is let go after this.
        waited: counts a wait.
        requested: counts a call that was asked about, by tool.
    """

    types: frozenset[str] = frozenset((*HUMAN.opens, *HUMAN.closes))

    def __init__(
        self,
        grace_ns: int,
        late_ns: int,
        waited: Callable[[Wait], None],
        requested: Callable[[str], None],
    ) -> None:
        self._grace_ns = grace_ns
        self._late_ns = late_ns
        self._waited = waited
        self._requested = requested
        self._approvals: OrderedDict[Name, Approval] = OrderedDict()
        self._alarms: list[tuple[int, Name]] = []

    def take(self, event: BaseEvent) -> None:
        """Take an event of one of ``types``."""
        name = (event.correlation_id or event.session_id or "", event.data["call_id"])
        approval = self._approvals.get(name)
        if approval is None:
            approval = self._approvals[name] = Approval(event.data["tool_name"])
            if len(self._approvals) > MAX_KEPT:
                self._forget_one()
        moment = (event.time_us, event.event_id)
        if event.event_type in HUMAN.opens:
            before = approval.asked
            insort(approval.requests.setdefault(str(event.event_type), []), moment)
            if approval.asked > before:
                self._requested(approval.tool)
        else:
            insort(approval.decisions, (moment, decision_of(event.event_type, event.data.get("decision"))))
        if approval.counted < len(approval.decisions):
            known = approval.asked > approval.counted
            approval.due_ns = event.recorded_ns + (self._grace_ns if known else self._late_ns)
            heapq.heappush(self._alarms, (approval.due_ns, name))

    def due(self, now_ns: int) -> None:
        """Count the waits that are settled."""
        alarms = self._alarms
        while alarms and alarms[0][0] < now_ns:
            due_ns, name = heapq.heappop(alarms)
            approval = self._approvals.get(name)
            if approval is None or approval.due_ns != due_ns:
                continue
            for nth in range(approval.counted, min(approval.asked, len(approval.decisions))):
                approval.counted += 1
                requested_us, opening_id = approval.request(nth)
                (decided_us, _), decision = approval.decisions[nth]
                self._waited(Wait(name[0], opening_id, approval.tool, decision, requested_us, decided_us))

    def _forget_one(self) -> None:
        """Make room: the oldest that is over, else the oldest."""
        for name, approval in self._approvals.items():
            if not approval.pending:
                del self._approvals[name]
                return
        self._approvals.popitem(last=False)

    def pending_by_tool(self) -> dict[str, int]:
        """How many calls wait for a person."""
        counts: dict[str, int] = {}
        for approval in self._approvals.values():
            if approval.pending:
                counts[approval.tool] = counts.get(approval.tool, 0) + approval.pending
        return counts

    def oldest_pending_us(self) -> int | None:
        """When the call that waits longest was asked about, in microseconds since 1970; None if none waits."""
        waiting = (a.request(len(a.decisions))[0] for a in self._approvals.values() if a.pending)
        return min(waiting, default=None)

    def dump(self) -> list[Any]:
        """Plain data for ``load``."""
        return [[name, a.tool, a.requests, a.decisions, a.counted, a.due_ns] for name, a in self._approvals.items()]

    def load(self, rows: list[Any]) -> None:
        """Take over what ``dump`` gave."""
        self._approvals.clear()
        self._alarms.clear()
        for name, tool, requests, decisions, counted, due_ns in rows:
            approval = self._approvals[tuple(name)] = Approval(tool)
            approval.requests = {kind: [tuple(moment) for moment in moments] for kind, moments in requests.items()}
            approval.decisions = [(tuple(moment), decision) for moment, decision in decisions]
            approval.counted = counted
            approval.due_ns = due_ns
            if counted < len(approval.decisions):
                heapq.heappush(self._alarms, (due_ns, tuple(name)))
