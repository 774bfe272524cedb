"""POST /events in every format, over HTTP."""

import gzip
import json
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from tests.api.examples import switched, tool_completed
from tests.service import Service

NDJSON = {"Content-Type": "application/x-ndjson"}
GZIP = {"Content-Encoding": "gzip"}
NOTHING: dict[str, Any] = {"rejected": []}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """One service for all formats."""
    with Service(tmp_path_factory.mktemp("ingest")) as service:
        yield service


def stored(service: Service, **filters: str) -> list[dict[str, Any]]:
    """The events that match, in store order."""
    events: list[dict[str, Any]] = service.client.get("/events", params={"limit": "1000", **filters}).json()["events"]
    return events


def session() -> str:
    """A session of the test's own."""
    return f"session-{uuid.uuid4()}"


def cloudevent(session_id: str, **attributes: Any) -> dict[str, Any]:
    """A CloudEvent that carries an agent_switched event."""
    return {
        "specversion": "1.0",
        "id": str(uuid.uuid4()),
        "source": "/agents/1",
        "type": "agent.switched",
        "subject": session_id,
        "time": "2026-11-02T08:00:00.5Z",
        "correlationid": "0af7651916cd43dd8448eb211c80319c",
        "causationid": "4bf92f35-0000-4000-8000-000000000001",
        "data": {"from_agent": "a", "to_agent": "b"},
    } | attributes


def test_one_event(service: Service) -> None:
    """Its ten keys come back as they went in, with its position and when it was recorded."""
    name = session()
    event = switched(session_id=name, timestamp="2026-11-02T08:00:00.123456Z")
    assert {"accepted": 1, "duplicates": 0, **NOTHING} == service.post(event)
    expected = event | {
        "event_category": "agent",
        "causation_id": None,
        "data": {**event["data"]},
        "version": "1.0",
    }
    (found,) = stored(service, session_id=name)
    assert expected == {key: found[key] for key in expected}
    assert found["position"] > 0
    assert found["recorded_at"].endswith("Z")


def test_an_array(service: Service) -> None:
    """In its order; what is sent again is a duplicate, also within one request."""
    name = session()
    events = [switched(session_id=name) for _ in range(5)]
    assert {"accepted": 5, "duplicates": 1, **NOTHING} == service.post([*events, events[0]])
    assert {"accepted": 0, "duplicates": 5, **NOTHING} == service.post(events)
    assert [event["event_id"] for event in events] == [event["event_id"] for event in stored(service, session_id=name)]


def test_an_empty_array(service: Service) -> None:
    """Nothing to do is done."""
    assert {"accepted": 0, "duplicates": 0, **NOTHING} == service.post([])


@pytest.mark.parametrize("separator", [b"\n", b"\r\n", b"\n\n"])
@pytest.mark.parametrize("compressed", [False, True])
def test_ndjson(service: Service, separator: bytes, compressed: bool) -> None:
    """One event a line, gzip or not; blank lines are none."""
    name = session()
    events = [switched(session_id=name) for _ in range(3)]
    body = separator.join(json.dumps(event).encode() for event in events) + separator
    response = service.client.post(
        "/events",
        content=gzip.compress(body) if compressed else body,
        headers={**NDJSON, **(GZIP if compressed else {})},
    )
    assert {"accepted": 3, "duplicates": 0, **NOTHING} == response.json()
    assert [event["event_id"] for event in events] == [event["event_id"] for event in stored(service, session_id=name)]


def test_a_cloudevent(service: Service) -> None:
    """Structured mode: attributes become the envelope, extensions the ids, the type is ours in either spelling."""
    name = session()
    event = cloudevent(name)
    headers = {"Content-Type": "application/cloudevents+json; charset=utf-8"}
    response = service.client.post("/events", content=json.dumps(event), headers=headers)
    assert {"accepted": 1, "duplicates": 0, **NOTHING} == response.json()
    (found,) = stored(service, session_id=name)
    expected = {
        "event_id": event["id"],
        "event_type": "agent_switched",
        "timestamp": "2026-11-02T08:00:00.500000Z",
        "session_id": name,
        "correlation_id": event["correlationid"],
        "causation_id": event["causationid"],
        "data": event["data"],
        "source": "/agents/1",
    }
    assert expected == {key: found[key] for key in expected}


def test_a_batch_of_cloudevents(service: Service) -> None:
    """Batch mode: one that is none is refused alone."""
    name = session()
    events = [cloudevent(name), cloudevent(name, specversion="0.3"), cloudevent(name, type="x"), {}, cloudevent(name)]
    headers = {"Content-Type": "application/cloudevents-batch+json"}
    answer = service.client.post("/events", content=json.dumps(events), headers=headers).json()
    assert (2, 0) == (answer["accepted"], answer["duplicates"])
    assert [
        {"index": 1, "error": "specversion: expected '1.0', got '0.3'"},
        {"index": 2, "error": "event_type: there is no event type 'x'"},
        {"index": 3, "error": "specversion: expected '1.0', got 'None'"},
    ] == answer["rejected"]


def test_a_cloudevent_in_headers(service: Service) -> None:
    """Binary mode: attributes are headers, percent-encoded; the body is the data."""
    name = session()
    event = cloudevent(name, source="/agents/%C3%A9")
    data = event.pop("data")
    headers = {f"ce-{key}": str(value) for key, value in event.items()} | {"Content-Type": "application/json"}
    response = service.client.post("/events", content=json.dumps(data), headers=headers)
    assert {"accepted": 1, "duplicates": 0, **NOTHING} == response.json()
    (found,) = stored(service, session_id=name)
    assert ("agent_switched", "/agents/é", data) == (found["event_type"], found["source"], found["data"])


def test_ids_of_cloudevents(service: Service) -> None:
    """An id that is no UUID is unique within its source: the same pair is a duplicate, another source is not."""
    name = session()
    headers = {"Content-Type": "application/cloudevents-batch+json"}
    events = [cloudevent(name, id="17", source=source) for source in ("a", "b", "a")]
    answer = service.client.post("/events", content=json.dumps(events), headers=headers).json()
    assert {"accepted": 2, "duplicates": 1, **NOTHING} == answer


def test_data_in_base64_is_refused(service: Service) -> None:
    """It would have to be JSON, and then it can be sent as JSON."""
    event = cloudevent(session(), data_base64="e30=")
    headers = {"Content-Type": "application/cloudevents+json"}
    answer = service.client.post("/events", content=json.dumps(event), headers=headers).json()
    assert ["data_base64: is not supported: send the data as JSON in data"] == [
        row["error"] for row in answer["rejected"]
    ]


def test_ids_that_look_like_long_numbers(service: Service) -> None:
    """Twenty digits in an id or a text are no number; neither its value nor its neighbours suffer."""
    name = session()
    event = switched(
        session_id=name,
        correlation_id="1" * 32,
        data={"from_agent": "1" * 25, "to_agent": "b", "reason": "no. " + "2" * 40, "x": 0.12345678901234567890123},
    )
    assert {"accepted": 2, "duplicates": 0, **NOTHING} == service.post([event, switched(session_id=name)])
    assert event["data"] == {key: stored(service, session_id=name)[0]["data"][key] for key in event["data"]}


def test_an_event_without_an_id(service: Service) -> None:
    """It gets one, and the time of now; sent twice it is two events."""
    name = session()
    event = {"event_type": "session_created", "session_id": name, "data": {}}
    assert {"accepted": 2, "duplicates": 0, **NOTHING} == service.post([event, event])
    assert 2 == len({found["event_id"] for found in stored(service, session_id=name)})


def test_content_is_redacted_before_the_store(service: Service) -> None:
    """Of arguments the names and hashes are kept, of a secret nothing, in any view and in the file itself."""
    name = session()
    secret = "sk-" + "a1" * 16
    request = {"tool_name": "t", "call_id": "c", "arguments": {"path": "/very/private/path"}}
    events = [
        switched(event_type="tool_execution_requested", session_id=name, data=request),
        switched(session_id=name, data={"from_agent": "a", "to_agent": "b", "reason": f"uses {secret}"}),
    ]
    assert 2 == service.post(events)["accepted"]
    shown = json.dumps(stored(service, session_id=name)) + service.client.get("/events/audit-log").text
    files = b"".join(path.read_bytes() for path in service.database.parent.glob("events.db*"))
    for word in (secret, "/very/private/path"):
        assert word not in shown
        assert word.encode() not in files
    assert "[redacted]" in shown


def test_a_large_batch(service: Service) -> None:
    """10,000 events in one request are committed together, in order."""
    name = session()
    events = [tool_completed() | {"session_id": name} for _ in range(10_000)]
    assert 10_000 == service.post(events)["accepted"]
    first = stored(service, session_id=name)
    assert [event["event_id"] for event in events[:1_000]] == [event["event_id"] for event in first]
    assert list(range(first[0]["position"], first[0]["position"] + 1_000)) == [event["position"] for event in first]


def test_many_at_once(service: Service) -> None:
    """The same events from eight clients at once are stored once."""
    name = session()
    events = [switched(session_id=name) for _ in range(200)]

    def send(index: int) -> tuple[int, int]:
        with httpx.Client(base_url=service.url, trust_env=False, timeout=30) as client:
            answers = [client.post("/events", json=events[start : start + 20]).json() for start in range(0, 200, 20)]
        return sum(a["accepted"] for a in answers), sum(a["duplicates"] for a in answers)

    with ThreadPoolExecutor(8) as pool:
        sums = list(pool.map(send, range(8)))
    assert (200, 7 * 200) == (sum(a for a, _ in sums), sum(d for _, d in sums))
    assert 200 == len(stored(service, session_id=name))


def test_the_door_is_in_the_schema(service: Service) -> None:
    """POST /events is described, with its content types and its refusals."""
    operation = service.client.get("/openapi.json").json()["paths"]["/events"]["post"]
    assert {
        "application/json",
        "application/x-ndjson",
        "application/cloudevents+json",
        "application/cloudevents-batch+json",
    } == set(operation["requestBody"]["content"])
    assert {"202", "400", "401", "403", "413", "415", "429", "503"} == set(operation["responses"])


def test_the_door_is_counted(service: Service) -> None:
    """/metrics tells what came in, what was known, what was refused and why."""

    def figure(line: str) -> float:
        text = service.client.get("/metrics").text
        return next((float(row.split()[-1]) for row in text.splitlines() if row.startswith(line)), 0.0)

    rows = [
        'agent_runtime_ingest_events_total{outcome="accepted"}',
        'agent_runtime_ingest_events_total{outcome="duplicate"}',
        'agent_runtime_ingest_events_total{outcome="rejected"}',
        'agent_runtime_ingest_rejected_total{reason="event_type"}',
        'agent_runtime_ingest_requests_total{code="202"}',
        'agent_runtime_ingest_requests_total{code="400"}',
    ]
    before = [figure(row) for row in rows]
    event = switched()
    service.post([event, event, switched(event_type="x")])
    service.client.post("/events", content="{", headers={"Content-Type": "application/json"})
    assert [1, 1, 1, 1, 1, 1] == [figure(row) - value for row, value in zip(rows, before, strict=True)]
