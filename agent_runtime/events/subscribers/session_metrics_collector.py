"""What the model calls of each session took: time, tokens, failures."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import orjson

from agent_runtime.events.base_event import BaseEvent, format_time_us
from agent_runtime.events.event_bus import EventBus
from agent_runtime.events.event_types import EventType
from agent_runtime.events.redaction import redact_text
from agent_runtime.events.store.base import EventStore
from agent_runtime.events.subscribers.folding import FoldingSubscriber

NS_PER_MS = 1_000_000
MAX_ERROR_TEXT = 500
PAGE = 1_000

_T = EventType
LLM_TYPES = (_T.LLM_REQUEST_STARTED, _T.LLM_REQUEST_COMPLETED, _T.LLM_REQUEST_FAILED)


@dataclass(slots=True)
class _End:
    """How a request ended. Of several reports on one request, the least by ``order`` holds, whichever comes first."""

    event_id: str
    time_us: int
    success: bool
    model: str
    duration_ns: int | None
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    has_tool_calls: bool
    error: str | None

    @property
    def order(self) -> tuple[bool, int, str]:
        return not self.success, self.time_us, self.event_id


@dataclass(slots=True)
class _Request:
    """One request, as far as its events have come in."""

    started_us: int | None = None
    end: _End | None = None

    def duration_ns(self, end: _End) -> int | None:
        """As reported, else from start to end; None if neither is known."""
        if end.duration_ns is not None or self.started_us is None:
            return end.duration_ns
        return max(0, end.time_us - self.started_us) * 1_000


@dataclass(slots=True)
class _Sums:
    """Sums over ended requests, in whole numbers, so that they know no order."""

    successful: int = 0
    failed: int = 0
    duration_ns: int = 0
    successful_ns: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    total_tokens: int = 0
    with_tools: int = 0

    def add(self, end: _End, duration_ns: int) -> None:
        self.duration_ns += duration_ns
        if end.success:
            self.successful += 1
            self.successful_ns += duration_ns
            self.with_tools += end.has_tool_calls
        else:
            self.failed += 1
        self.prompt_tokens += end.prompt_tokens
        self.completion_tokens += end.completion_tokens
        self.total_tokens += end.total_tokens


@dataclass(slots=True)
class _Session:
    """The requests of one session; those that had to make room live on in ``former``."""

    former: _Sums = field(default_factory=_Sums)
    requests: dict[str, _Request] = field(default_factory=dict)

    def fold(self, event: BaseEvent, max_requests: int) -> None:
        # A publisher that sends no request id means each end as a request of its own.
        request_id = event.data.get("request_id") or event.event_id
        request = self.requests.setdefault(request_id, _Request())
        if event.event_type == _T.LLM_REQUEST_STARTED:
            if request.started_us is None or event.time_us < request.started_us:
                request.started_us = event.time_us
        else:
            end = _end(event)
            if request.end is None or end.order < request.end.order:
                request.end = end
        if len(self.requests) > max_requests:
            oldest = self.requests.pop(next(iter(self.requests)))
            if oldest.end is not None:
                self.former.add(oldest.end, oldest.duration_ns(oldest.end) or 0)

    def totals(self, session_id: str) -> dict[str, Any]:
        sums, rows = replace(self.former), []
        for request in list(self.requests.values()):
            if (end := request.end) is not None:
                duration_ns = request.duration_ns(end)
                sums.add(end, duration_ns or 0)
                rows.append((end, duration_ns))
        rows.sort(key=lambda row: (row[0].time_us, row[0].event_id))
        successful = sums.successful
        return {
            "session_id": session_id,
            "total_requests": successful + sums.failed,
            "successful_requests": successful,
            "failed_requests": sums.failed,
            "total_duration_ms": sums.duration_ns / NS_PER_MS,
            "average_duration_ms": sums.successful_ns / successful / NS_PER_MS if successful else 0.0,
            "total_prompt_tokens": sums.prompt_tokens,
            "total_completion_tokens": sums.completion_tokens,
            "total_tokens": sums.total_tokens,
            "average_tokens_per_request": sums.total_tokens / successful if successful else 0.0,
            "requests_with_tools": sums.with_tools,
            "requests": [_row(end, duration_ns) for end, duration_ns in rows],
        }


class SessionMetricsCollector(FoldingSubscriber):
    """Totals of model calls for each session, requests told apart by ``request_id``, in whatever order events arrive.

    Args:
        store: a durable store, from which a session that is no longer held is computed; ``attach`` takes the bus's own
            if that one is durable. Without one, sessions that had to make room are forgotten.
        max_sessions: how many sessions are held, those with the newest events.
        max_requests: how many requests of a session are held and listed; the totals cover all.
    """

    name = "session_metrics_collector"
    priority = 5

    def __init__(self, store: EventStore | None = None, max_sessions: int = 1_000, max_requests: int = 500) -> None:
        self._store = store
        self._max_sessions = max_sessions
        self._max_requests = max_requests
        # Least recently active first. None: it may have had events that are not held here, so the store must be asked.
        self._sessions: OrderedDict[str, _Session | None] = OrderedDict()
        self._partial = False
        self._folds = dict.fromkeys(LLM_TYPES, self._on_llm_event)

    def attach(self, bus: EventBus) -> Callable[[], None]:
        """See ``FoldingSubscriber.attach``."""
        if bus.store.blocking:
            self._store = bus.store
            if bus.store.last_position():
                self._partial = True
                self._sessions = OrderedDict.fromkeys(self._sessions)
        return super().attach(bus)

    def get_session_metrics(self, session_id: str) -> dict[str, Any] | None:
        """The totals of a session, None if no model was called in it. May read the store.

        Returns:
            session_id, total_requests (ended ones), successful_requests, failed_requests, total_duration_ms,
            average_duration_ms, total_prompt_tokens, total_completion_tokens, total_tokens, average_tokens_per_request,
            requests_with_tools, and requests: the newest, by time, each with timestamp (of its end), model, duration_ms
            (None if unknown), prompt_tokens, completion_tokens, total_tokens, has_tool_calls, success, error.
            Averages are over successful requests.
        """
        session = self._sessions.get(session_id)
        if session is None and self._store is not None:
            session = self._from_store(session_id, self._store)
        return None if session is None else session.totals(session_id)

    def get_all_session_metrics(self) -> list[dict[str, Any]]:
        """The totals of every session held, least recently active first. May read the store."""
        totals = (self.get_session_metrics(session_id) for session_id in list(self._sessions))
        return [session for session in totals if session is not None]

    def reset_metrics(self) -> None:
        """Forget every session."""
        self._sessions = OrderedDict()
        self._partial = False

    def dump(self) -> bytes:
        """See ``Projection.dump``: where the store can be asked, the names of the sessions are enough."""
        if self._store is not None:
            return orjson.dumps({"sessions": dict.fromkeys(self._sessions), "partial": True})
        return orjson.dumps({"sessions": self._sessions, "partial": self._partial})

    def load(self, state: bytes) -> None:
        """See ``Projection.load``."""
        kept = orjson.loads(state)
        self._partial = kept["partial"]
        self._sessions = OrderedDict(
            (session_id, None if session is None else _session(session))
            for session_id, session in kept["sessions"].items()
        )

    def _on_llm_event(self, event: BaseEvent) -> None:
        if event.session_id is None:
            return
        sessions = self._sessions
        if event.session_id in sessions:
            sessions.move_to_end(event.session_id)
        else:
            sessions[event.session_id] = None if self._partial and self._store is not None else _Session()
            if len(sessions) > self._max_sessions:
                sessions.popitem(last=False)
                self._partial = True
        session = sessions[event.session_id]
        if session is not None:
            session.fold(event, self._max_requests)

    def _from_store(self, session_id: str, store: EventStore) -> _Session | None:
        session, after = _Session(), 0
        while events := store.query(session_id=session_id, event_types=LLM_TYPES, after=after, limit=PAGE):
            for event in events:
                session.fold(event, self._max_requests)
            after = events[-1].position
        return session if after else None


def _end(event: BaseEvent) -> _End:
    data = event.data
    success = event.event_type == _T.LLM_REQUEST_COMPLETED
    duration_ms = data.get("duration_ms")
    prompt_tokens, completion_tokens = data.get("prompt_tokens") or 0, data.get("completion_tokens") or 0
    return _End(
        event_id=event.event_id,
        time_us=event.time_us,
        success=success,
        model=data["model"],
        duration_ns=None if duration_ms is None else round(duration_ms * NS_PER_MS),
        prompt_tokens=prompt_tokens,
        completion_tokens=completion_tokens,
        total_tokens=data.get("total_tokens") or prompt_tokens + completion_tokens,
        has_tool_calls=bool(data.get("has_tool_calls")),
        error=None if success else redact_text(data["error"], MAX_ERROR_TEXT),
    )


def _row(end: _End, duration_ns: int | None) -> dict[str, Any]:
    return {
        "timestamp": format_time_us(end.time_us),
        "model": end.model,
        "duration_ms": None if duration_ns is None else duration_ns / NS_PER_MS,
        "prompt_tokens": end.prompt_tokens,
        "completion_tokens": end.completion_tokens,
        "total_tokens": end.total_tokens,
        "has_tool_calls": end.has_tool_calls,
        "success": end.success,
        "error": end.error,
    }


def _session(kept: dict[str, Any]) -> _Session:
    return _Session(
        former=_Sums(**kept["former"]),
        requests={
            request_id: _Request(request["started_us"], None if request["end"] is None else _End(**request["end"]))
            for request_id, request in kept["requests"].items()
        },
    )
