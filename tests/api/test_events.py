"""Reading events back: pages, filters, the live tail, dead letters."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from agent_runtime.events import BaseEvent, EventHandlerWithRetry, EventType
from agent_runtime.events.store import DeadLetter, SqliteStore
from agent_runtime.main import create_app
from agent_runtime.settings import Settings
from tests.api.examples import switched, tool_completed
from tests.service import Service


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service with 30 events: 20 of session a, of which 10 are of the turn t, and 10 of session b."""
    with Service(tmp_path_factory.mktemp("events")) as service:
        service.post([switched(session_id="a", correlation_id="t") for _ in range(10)])
        service.post([tool_completed() | {"session_id": "a"} for _ in range(10)])
        service.post([switched(session_id="b") for _ in range(10)])
        yield service


def page(service: Service, **parameters: Any) -> dict[str, Any]:
    """One page, which must be a 200."""
    response = service.client.get("/events", params=parameters)
    assert 200 == response.status_code, response.text
    body: dict[str, Any] = response.json()
    return body


@pytest.mark.parametrize(
    ("filters", "count"),
    [
        ({"session_id": "a"}, 20),
        ({"session_id": "b"}, 10),
        ({"session_id": "nobody"}, 0),
        ({"correlation_id": "t"}, 10),
        ({"event_type": "agent_switched"}, 20),
        ({"event_type": "agent.switched"}, 20),
        ({"event_type": "SessionCreated"}, 0),
        ({"session_id": "a", "event_type": "tool_execution_completed"}, 10),
        ({"session_id": "a", "correlation_id": "t", "event_type": "agent_switched"}, 10),
    ],
)
def test_filters(service: Service, filters: dict[str, str], count: int) -> None:
    """Each filter narrows; either spelling of a type is understood."""
    assert count == len(page(service, **filters)["events"])


@pytest.mark.parametrize("limit", [1, 3, 10, 19, 20, 21])
def test_pages(service: Service, limit: int) -> None:
    """Following next_cursor gives every event once, in store order, and the last page has none."""
    found, cursor = [], 0
    while cursor is not None:
        body = page(service, session_id="a", limit=limit, cursor=cursor)
        assert len(body["events"]) <= limit
        found += [event["position"] for event in body["events"]]
        cursor = body["next_cursor"]
    assert [event["position"] for event in page(service, session_id="a")["events"]] == found
    assert 20 == len(found)


def test_a_page_of_large_events_is_short(tmp_path: Path) -> None:
    """However large the events, a page has some 8 MiB; following it gives every event once."""
    notes = {f"note {number}": "x" * 30_000 for number in range(30)}
    with Service(tmp_path) as service:
        for _ in range(16):
            service.post([tool_completed(**notes) for _ in range(15)])
        found, cursor, sizes = [], 0, []
        while cursor is not None:
            response = service.client.get("/events", params={"limit": 1_000, "cursor": cursor, "session_id": "s1"})
            sizes.append(len(response.content))
            found += [event["position"] for event in response.json()["events"]]
            cursor = response.json()["next_cursor"]
        assert sorted(set(found)) == found
        assert 240 == len(found)
        assert max(sizes) < 8 * 1024 * 1024 + 1_000_000


def test_keys_of_a_row(service: Service) -> None:
    """The ten keys, the position, and when it was recorded."""
    assert {
        *("event_id", "event_type", "event_category", "timestamp", "session_id", "correlation_id", "causation_id"),
        *("data", "source", "version", "position", "recorded_at"),
    } == page(service, limit=1)["events"][0].keys()


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("/events?event_type=agent_exploded", "there is no event type 'agent_exploded'"),
        ("/events?limit=0", "limit"),
        ("/events?limit=1001", "limit"),
        ("/events?limit=x", "limit"),
        ("/events?cursor=-1", "cursor"),
        ("/events?cursor=99999999999999999999", "cursor"),
        ("/events/stream?event_type=x", "there is no event type 'x'"),
        ("/events/dead-letters?limit=x", "limit"),
        ("/events/audit-log?limit=x", "limit"),
    ],
)
def test_a_wrong_question(service: Service, path: str, words: str) -> None:
    """A 400 that says which parameter is wrong."""
    response = service.client.get(path)
    assert 400 == response.status_code
    assert words in response.json()["error"]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/nothing", 404), ("DELETE", "/events", 405), ("PUT", "/metrics", 405), ("GET", "/events/", 404)]
    + [("POST", f"/events/dead-letters/{number}/retry", 400) for number in (0, -1, 2**63, "x")],
)
def test_errors_are_json(service: Service, method: str, path: str, status: int) -> None:
    """Whatever goes wrong, the body is {"error": "..."}."""
    response = service.client.request(method, path)
    assert (status, ["error"]) == (response.status_code, list(response.json()))


class Tail:
    """An open stream, parsed."""

    def __init__(self, response: httpx.Response) -> None:
        self._lines = response.iter_lines()

    def next(self) -> dict[str, str]:
        """The next event: its fields; comments are passed over."""
        fields: dict[str, str] = {}
        for line in self._lines:
            if not line:
                if "data" in fields:
                    return fields
                fields = {}
                continue
            name, _, value = line.partition(": ")
            if name:
                fields[name] = value
        return {}


@contextmanager
def tail(service: Service, last_event_id: str | None = None, **filters: str) -> Iterator[Tail]:
    """Open the live tail."""
    headers = {} if last_event_id is None else {"Last-Event-ID": last_event_id}
    with (
        httpx.Client(base_url=service.url, trust_env=False, timeout=20) as client,
        client.stream("GET", "/events/stream", params=filters, headers=headers) as response,
    ):
        assert (200, "text/event-stream; charset=utf-8") == (response.status_code, response.headers["content-type"])
        yield Tail(response)


def test_the_tail_is_live(service: Service) -> None:
    """What is stored after it was opened comes at once: position as id, type as event, the row as data."""
    with tail(service, session_id="live") as stream:
        event = switched(session_id="live")
        service.post([switched(session_id="other"), event])
        fields = stream.next()
        row = json.loads(fields["data"])
        assert (str(row["position"]), "agent_switched") == (fields["id"], fields["event"])
        assert page(service, session_id="live")["events"] == [row]


def test_the_tail_goes_on(service: Service) -> None:
    """With Last-Event-ID it begins behind that position: between two connections nothing is missed or doubled."""
    expected = [event["position"] for event in page(service, session_id="a")["events"]]
    with tail(service, "0", session_id="a") as stream:
        first = [int(stream.next()["id"]) for _ in range(7)]
    with tail(service, str(first[-1]), session_id="a") as stream:
        assert expected == first + [int(stream.next()["id"]) for _ in range(13)]


@pytest.mark.parametrize("position", ["x", "-1", "1.5", "99999999999999999999"])
def test_a_last_event_id_that_is_no_position(service: Service, position: str) -> None:
    """Is a 400."""
    response = service.client.get("/events/stream", headers={"Last-Event-ID": position})
    assert 400 == response.status_code


def test_the_tail_ends_with_the_service(tmp_path: Path) -> None:
    """At shutdown an open stream gets a last event that says so, and ends."""
    with Service(tmp_path) as service:
        fields: list[dict[str, str]] = []
        opened = threading.Event()

        def follow() -> None:
            with tail(service) as stream:
                opened.set()
                while event := stream.next():
                    fields.append(event)

        thread = threading.Thread(target=follow)
        thread.start()
        assert opened.wait(10)
        assert 0 == service.stop()
        thread.join(10)
        assert not thread.is_alive()
        assert {"event": "end", "data": '{"reason":"shutdown"}'} == fields[-1]


def test_dead_letters(tmp_path: Path) -> None:
    """They are listed by pages; one whose handler is gone can't be retried, and stays."""
    store = SqliteStore(tmp_path / "events.db")
    for number in range(3):
        payload = json.dumps({"n": number}) if number else "no JSON"
        queue, consumer = ("handlers", "app.handler") if number < 2 else ("spans", "otlp")
        store.add_dead_letter(DeadLetter(queue, consumer, f"e{number}", payload, "E: x", 3, 1_000_000_000))
    store.close()
    with Service(tmp_path) as service:
        first = service.client.get("/events/dead-letters", params={"limit": 2}).json()
        rest = service.client.get("/events/dead-letters", params={"cursor": first["next_cursor"]}).json()
        assert [1, 2, 3] == [row["letter_id"] for row in first["dead_letters"] + rest["dead_letters"]]
        assert None is rest["next_cursor"]
        assert {
            "letter_id": 2,
            "queue": "handlers",
            "consumer": "app.handler",
            "event_id": "e1",
            "payload": {"n": 1},
            "error": "E: x",
            "attempts": 3,
            "failed_at": "1970-01-01T00:00:01.000000Z",
        } == first["dead_letters"][1]
        for letter_id, words in (
            (2, "no subscriber is called app.handler"),
            (3, "dead letter 3 is of the queue spans: only those of handlers are retried"),
            (99, "there is no dead letter 99"),
        ):
            response = service.client.post(f"/events/dead-letters/{letter_id}/retry")
            assert (404, {"error": words}) == (response.status_code, response.json())
        assert 3 == len(service.client.get("/events/dead-letters").json()["dead_letters"])


async def test_a_dead_letter_is_retried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It goes once more to its handler, and only to it; it stays while that fails, and is gone when it succeeds."""
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "none")
    app = create_app(Settings(mode="sidecar", db_url=f"sqlite:///{tmp_path}/events.db"))
    seen: list[str] = []
    broken = True

    async def fragile(event: BaseEvent) -> None:
        seen.append(event.event_id)
        if broken:
            raise OSError("the disk is full")

    client = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1")
    async with app.router.lifespan_context(app), client:
        bus = app.state.service.bus
        bus.subscribe(
            event_type=EventType.AGENT_SWITCHED, handler=EventHandlerWithRetry(fragile, max_retries=2, retry_delay=0)
        )
        assert 202 == (await client.post("/events", json=switched())).status_code
        await bus.drain()
        (letter,) = (await client.get("/events/dead-letters")).json()["dead_letters"]
        assert ("agent_switched", 2, "OSError: the disk is full") == (
            letter["payload"]["event_type"],
            letter["attempts"],
            letter["error"],
        )
        retry = f"/events/dead-letters/{letter['letter_id']}/retry"
        outcomes = [(await client.post(retry)).json()["succeeded"]]
        broken = False
        outcomes.append((await client.post(retry)).json()["succeeded"])
        assert [False, True] == outcomes
        assert [] == (await client.get("/events/dead-letters")).json()["dead_letters"]
        assert [letter["event_id"]] * 5 == seen
        assert 404 == (await client.post(retry)).status_code
