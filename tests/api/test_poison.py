"""Issue 5.4: what is poison is refused alone and clearly, its neighbours are stored, and nothing is worse for it."""

import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.api.examples import switched
from tests.api.poison import BODIES, ELEMENTS, Body, Poison
from tests.service import Service

READS = [
    "/health",
    "/ready",
    "/metrics",
    "/events?limit=1000",
    "/events/metrics",
    "/events/audit-log?limit=1000",
    "/events/stats",
    "/events/metrics/sessions",
    "/events/dead-letters",
    "/docs",
    "/openapi.json",
]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """One service for the whole corpus."""
    with Service(tmp_path_factory.mktemp("poison")) as service:
        yield service


def everything_answers(client: httpx.Client) -> None:
    """Every endpoint that reads is 200."""
    assert dict.fromkeys(READS, 200) == {path: client.get(path).status_code for path in READS}


def test_the_corpus_is_large_enough() -> None:
    """At least 40 payloads, no two of one name."""
    names = [row.name for row in [*ELEMENTS, *BODIES]]
    assert len(names) >= 40
    assert len(names) == len(set(names))


@pytest.mark.parametrize("poison", ELEMENTS, ids=lambda poison: poison.name)
def test_an_element_is_refused_alone(service: Service, poison: Poison) -> None:
    """The answer names its index, what is wrong and where; the events before and behind it are stored."""
    before, behind = switched(), switched()
    body = b"[%s,%s, %s ]" % (json.dumps(before).encode(), poison.text, json.dumps(behind).encode())
    response = service.client.post("/events", content=body, headers={"Content-Type": "application/json"})
    assert 202 == response.status_code, response.text
    answer = response.json()
    assert (2, 0, [1]) == (answer["accepted"], answer["duplicates"], [row["index"] for row in answer["rejected"]])
    assert poison.error in answer["rejected"][0]["error"]
    assert len(answer["rejected"][0]["error"]) < 400
    last = service.client.get("/events/audit-log", params={"event_type": "agent_switched", "limit": 2}).json()
    assert [before["event_id"], behind["event_id"]] == [row["event_id"] for row in last["audit_log"]]


@pytest.mark.parametrize("poison", ELEMENTS, ids=lambda poison: poison.name)
def test_a_line_is_refused_alone(service: Service, poison: Poison) -> None:
    """The same in NDJSON, where the line's index is named."""
    lines = [json.dumps(switched()).encode(), poison.text, json.dumps(switched()).encode()]
    response = service.client.post(
        "/events", content=b"\n".join(lines), headers={"Content-Type": "application/x-ndjson"}
    )
    assert 202 == response.status_code, response.text
    # A blank line is no line.
    expected = [1] if poison.text.strip() else []
    assert (2, expected) == (response.json()["accepted"], [row["index"] for row in response.json()["rejected"]])


@pytest.mark.parametrize("body", BODIES, ids=lambda body: body.name)
def test_a_body_is_refused_whole(service: Service, body: Body) -> None:
    """The status says of what kind it is, the error says why, and nothing of it is stored."""
    last = service.client.get("/events/stats").json()["total_published"]
    response = service.client.post("/events", content=body.body, headers=body.headers)
    assert body.status == response.status_code, response.text
    assert body.error in response.json()["error"]
    assert last == service.client.get("/events/stats").json()["total_published"]


def test_everything_answers_afterwards(service: Service) -> None:
    """After all of it, once more in one array, every endpoint is 200, and so it is after a restart."""
    array = b"[%s]" % b",".join(row.text for row in ELEMENTS)
    response = service.client.post("/events", content=array, headers={"Content-Type": "application/json"})
    assert list(range(len(ELEMENTS))) == [row["index"] for row in response.json()["rejected"]]
    everything_answers(service.client)
    service.restart()
    everything_answers(service.client)


def test_what_is_odd_but_right_is_taken(tmp_path: Path) -> None:
    """Any text of Unicode, the ends of int64, both spellings, a byte order mark: taken, and every read answers."""
    odd = [
        switched(session_id="s/ü?#% ὦ", source="ὦ", event_type="agent.switched"),
        switched(data={"from_agent": "_other", "to_agent": '"},{le="', "reason": "\ud83d\ude00\r\n\t\x1b[31m\x7f"}),
        switched(data={"from_agent": "a", "to_agent": "b", "extra": [2**63 - 1, -(2**63), 1e308, [], {}, None, ""]}),
        switched(timestamp="2000-01-01T00:00:00Z"),
        switched(timestamp="2199-12-31T23:59:59.999999Z"),
        switched(session_id=None, correlation_id="not hex", causation_id="nobody"),
    ]
    with Service(tmp_path) as service:
        body = b"\xef\xbb\xbf" + json.dumps(odd).encode()
        response = service.client.post("/events", content=body, headers={"Content-Type": "application/json"})
        assert {"accepted": len(odd), "duplicates": 0, "rejected": []} == response.json()
        everything_answers(service.client)
        found = service.client.get("/events", params={"session_id": odd[0]["session_id"]}).json()["events"]
        assert [odd[0]["event_id"]] == [event["event_id"] for event in found]
        path = httpx.URL(service.url).copy_with(raw_path=b"/events/metrics/session/s%2F%C3%BC%3F%23%25")
        assert 404 == service.client.get(path).status_code
