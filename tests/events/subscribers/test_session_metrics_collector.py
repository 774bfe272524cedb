import asyncio
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_runtime.events.base_event import BaseEvent
from agent_runtime.events.event_bus import EventBus
from agent_runtime.events.llm_events import LLMRequestCompletedEvent, LLMRequestFailedEvent, LLMRequestStartedEvent
from agent_runtime.events.parsing import parse_event
from agent_runtime.events.projection import ProjectionRunner
from agent_runtime.events.session_events import SessionCreatedEvent
from agent_runtime.events.store.sqlite import SqliteStore
from agent_runtime.events.subscribers.session_metrics_collector import SessionMetricsCollector


def at(second: int) -> str:
    """A moment of the test's day."""
    return f"2026-01-17T14:00:{second:02d}.000000Z"


def started(request_id: str, second: int = 0, session_id: str | None = "s") -> BaseEvent:
    """A model was called."""
    return LLMRequestStartedEvent(session_id=session_id, model="gpt", request_id=request_id, timestamp=at(second))


def completed(request_id: str, second: int = 1, session_id: str | None = "s", **more: Any) -> BaseEvent:
    """A model answered."""
    keywords = {"duration_ms": 100.5, "prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15, **more}
    return LLMRequestCompletedEvent(
        session_id=session_id, model="gpt", request_id=request_id, timestamp=at(second), **keywords
    )


def failed(request_id: str, second: int = 1, duration_ms: float | None = None) -> BaseEvent:
    """A call failed."""
    return LLMRequestFailedEvent(
        session_id="s",
        model="gpt",
        error="refused",
        error_type="RateLimit",
        request_id=request_id,
        duration_ms=duration_ms,
        timestamp=at(second),
    )


SOME = [
    SessionCreatedEvent(session_id="s"),
    started("a", 0),
    started("b", 1),
    started("c", 2),
    completed("b", 3, duration_ms=200.25, has_tool_calls=True),
    completed("a", 4, duration_ms=100.25, prompt_tokens=20, completion_tokens=10, total_tokens=30),
    failed("c", 5),
    started("d", 6),
]
SOME_TOTALS = {
    "session_id": "s",
    "total_requests": 3,
    "successful_requests": 2,
    "failed_requests": 1,
    "total_duration_ms": 3300.5,
    "average_duration_ms": 150.25,
    "total_prompt_tokens": 30,
    "total_completion_tokens": 15,
    "total_tokens": 45,
    "average_tokens_per_request": 22.5,
    "requests_with_tools": 1,
    "requests": [
        {
            "timestamp": at(3),
            "model": "gpt",
            "duration_ms": 200.25,
            "prompt_tokens": 10,
            "completion_tokens": 5,
            "total_tokens": 15,
            "has_tool_calls": True,
            "success": True,
            "error": None,
        },
        {
            "timestamp": at(4),
            "model": "gpt",
            "duration_ms": 100.25,
            "prompt_tokens": 20,
            "completion_tokens": 10,
            "total_tokens": 30,
            "has_tool_calls": False,
            "success": True,
            "error": None,
        },
        {
            "timestamp": at(5),
            "model": "gpt",
            "duration_ms": 3000.0,
            "prompt_tokens": 0,
            "completion_tokens": 0,
            "total_tokens": 0,
            "has_tool_calls": False,
            "success": False,
            "error": "refused",
        },
    ],
}


def totals_of(events: list[BaseEvent], **options: int) -> dict[str, Any]:
    """The totals of session ``s`` after ``events``."""
    collector = SessionMetricsCollector(**options)  # type: ignore[arg-type]
    collector.apply(events)
    totals = collector.get_session_metrics("s")
    assert totals is not None
    return totals


def test_totals_of_a_session() -> None:
    """Every key; parallel requests told apart; averages over successful ones; a failure timed from its start."""
    assert totals_of(SOME) == SOME_TOTALS


@given(st.randoms(use_true_random=False))
def test_order_of_arrival_does_not_matter(chance: random.Random) -> None:
    """Also a completion before its start counts, and the list of requests is by time."""
    events = SOME[:]
    chance.shuffle(events)
    assert totals_of(events) == SOME_TOTALS


def test_a_completion_without_a_start_counts() -> None:
    """The start may never come."""
    assert totals_of([completed("a")])["total_requests"] == 1


def test_a_request_that_was_reported_twice_counts_once() -> None:
    """Two reports on one request id are one request, and a success outweighs a failure, in either order."""
    reports = [failed("a", 1), completed("a", 2), completed("a", 3, duration_ms=900)]
    for events in (reports, reports[::-1]):
        totals = totals_of(events)
        assert (totals["total_requests"], totals["failed_requests"], totals["total_duration_ms"]) == (1, 0, 100.5)


def test_ends_without_request_ids_are_requests_of_their_own() -> None:
    """An older publisher sends none."""
    events = [completed("x"), completed("x")]
    for event in events:
        event.data["request_id"] = None
    assert totals_of(events)["total_requests"] == 2


def test_totals_of_tokens_are_added_up_where_they_are_missing() -> None:
    """A publisher may give only the parts."""
    assert totals_of([completed("a", total_tokens=0)])["total_tokens"] == 15


def test_a_session_that_has_only_begun_has_zeros() -> None:
    """No average over nothing."""
    totals = totals_of([started("a")])
    assert (totals["total_requests"], totals["average_duration_ms"], totals["average_tokens_per_request"]) == (0, 0, 0)


def test_sessions_without_model_calls_are_unknown() -> None:
    """None, which the API answers as 404."""
    collector = SessionMetricsCollector()
    collector.apply([SessionCreatedEvent(session_id="s"), completed("a", session_id=None)])
    assert collector.get_session_metrics("s") is None
    assert collector.get_all_session_metrics() == []


def test_requests_are_bounded_and_totals_are_not() -> None:
    """The list holds the newest, the totals all of them."""
    totals = totals_of([completed(str(i), i) for i in range(50)], max_requests=10)
    assert totals["total_requests"] == 50
    assert totals["total_duration_ms"] == 5025.0
    assert [request["timestamp"] for request in totals["requests"]] == [at(i) for i in range(40, 50)]


def test_sessions_are_bounded_least_recently_active_first() -> None:
    """Without a store the session that was silent for longest makes room."""
    collector = SessionMetricsCollector(max_sessions=2)
    collector.apply([completed("1", session_id=name) for name in ("a", "b", "a", "c")])
    assert [totals["session_id"] for totals in collector.get_all_session_metrics()] == ["a", "c"]
    assert collector.get_session_metrics("b") is None


async def test_with_a_durable_store_a_session_that_made_room_is_exact(tmp_path: Path) -> None:
    """Its totals are computed from the store, also when it goes on after it made room."""
    store = SqliteStore(tmp_path / "events.db")
    bus, collector = EventBus(store), SessionMetricsCollector(max_sessions=2)
    collector.attach(bus)
    half = len(SOME) // 2
    for events in (SOME[:half], [completed("1", session_id=f"other-{i}") for i in range(5)], SOME[half:]):
        await bus.publish_many(events)
        assert await bus.drain()
        assert len(collector.get_all_session_metrics()) <= 2
    assert collector.get_session_metrics("s") == SOME_TOTALS
    assert [totals["session_id"] for totals in collector.get_all_session_metrics()] == ["other-4", "s"]
    assert collector.get_session_metrics("never") is None
    await bus.close()
    store.close()


async def test_attached_to_a_store_with_a_past_it_is_exact(tmp_path: Path) -> None:
    """A session that began before this process is not counted from zero."""
    store = SqliteStore(tmp_path / "events.db")
    store.append(SOME[:5])
    bus, collector = EventBus(store), SessionMetricsCollector()
    collector.attach(bus)
    assert [subscription.priority for subscription in bus.subscriptions] == [5]
    await bus.publish_many(SOME[5:])
    assert await bus.close()
    assert collector.get_session_metrics("s") == SOME_TOTALS
    store.close()


@given(st.integers(0, len(SOME)))
def test_a_dumped_and_loaded_state_goes_on_exactly(cut: int) -> None:
    """Dumping and loading anywhere changes nothing, requests under way included."""
    before, after = SessionMetricsCollector(max_requests=2), SessionMetricsCollector(max_requests=2)
    before.apply(SOME[:cut])
    after.load(before.dump())
    after.apply(SOME[cut:])
    before.apply(SOME[cut:])
    assert after.dump() == before.dump()
    assert after.get_session_metrics("s") == before.get_session_metrics("s")


@pytest.mark.parametrize("asks_the_store", [True, False])
def test_as_a_projection_it_survives_a_restart_exactly(tmp_path: Path, asks_the_store: bool) -> None:
    """Half the events, a restart from the file, the other half and some twice: the same totals."""

    async def part(events: list[BaseEvent]) -> list[dict[str, Any]]:
        store = SqliteStore(tmp_path / "events.db")
        bus, collector = EventBus(store), SessionMetricsCollector(store if asks_the_store else None)
        runner = ProjectionRunner(bus, collector)
        await runner.start()
        await bus.publish_many(events)
        await runner.stop()
        await bus.close()
        totals = collector.get_all_session_metrics()
        store.close()
        return totals

    asyncio.run(part(SOME[:4]))
    assert asyncio.run(part(SOME[2:])) == [SOME_TOTALS]


def test_reset_forgets_every_session() -> None:
    """After a reset nothing is left."""
    collector = SessionMetricsCollector()
    collector.apply(SOME)
    collector.reset_metrics()
    assert collector.get_all_session_metrics() == []


def test_errors_are_redacted_and_cut() -> None:
    """A provider's refusal may quote the key, or a whole page."""
    event = failed("a")
    event.data["error"] = "Incorrect key sk-abcdefghijklmnopqrstuvwx " + "x" * 10_000
    error = totals_of([parse_event(event.to_json())])["requests"][0]["error"]
    assert error.startswith("Incorrect key [redacted] xxx") and len(error) < 600


@pytest.mark.parametrize("kind", ["prompt_tokens", "completion_tokens"])
def test_missing_counts_are_zero(kind: str) -> None:
    """Older publishers leave out what they do not know."""
    event = completed("a")
    del event.data[kind]
    assert totals_of([event])[f"total_{kind}"] == 0
