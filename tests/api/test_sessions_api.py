from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from agent_runtime.api.agents import agents_router
from agent_runtime.api.answers import add_error_answers
from agent_runtime.api.auth import ACCESS
from agent_runtime.api.sessions import sessions_router
from agent_runtime.events.event_bus import EventBus
from agent_runtime.events.subscribers.agent_context_subscriber import AgentContextSubscriber
from agent_runtime.sessions.context import AgentContextManager
from agent_runtime.sessions.database import Database
from agent_runtime.sessions.manager import SessionManager
from agent_runtime.sessions.service import CreateSessionHandler, SessionManagementService

WAITING = {"call_id": "c-1", "tool_name": "write_file"}


@pytest.fixture
async def database() -> AsyncIterator[Database]:
    """Thrown away."""
    database = Database("memory://")
    await database.migrate()
    yield database
    await database.close()


@pytest.fixture
def bus() -> EventBus:
    """Over a store in memory."""
    return EventBus()


@pytest.fixture
def sessions(bus: EventBus, database: Database) -> SessionManager:
    """What the API shows."""
    return SessionManager(bus, database)


def application(bus: EventBus, database: Database, sessions: SessionManager) -> FastAPI:
    """The two routers, and the answers to errors."""

    async def pending(session_id: str) -> list[dict[str, Any]]:
        return [{**WAITING, "session_id": session_id}]

    contexts = AgentContextManager(bus, database, max_switches=2)
    AgentContextSubscriber(contexts).attach(bus)
    app = FastAPI(redirect_slashes=False)
    create = CreateSessionHandler(SessionManagementService(sessions, bus), bus)
    app.include_router(sessions_router(sessions, create, pending))
    app.include_router(agents_router(contexts))
    add_error_answers(app)
    return app


def client_of(app: FastAPI) -> httpx.AsyncClient:
    """Talks to ``app`` without a server in between."""
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://test")


@pytest.fixture
def app(bus: EventBus, database: Database, sessions: SessionManager) -> FastAPI:
    """On ``bus`` and ``database``."""
    return application(bus, database, sessions)


@pytest.fixture
async def client(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    """Of ``app``."""
    async with client_of(app) as client:
        yield client


async def begin(client: httpx.AsyncClient, session_id: str = "s-1") -> dict[str, Any]:
    """The row of a new session."""
    answer = await client.post("/sessions", json={"session_id": session_id})
    assert 201 == answer.status_code
    return dict(answer.json())


def test_every_route_declares_its_role(app: FastAPI) -> None:
    """A route that is not in the table can be reached by admins only; none may be forgotten."""
    paths = {(method.upper(), path) for path, methods in app.openapi()["paths"].items() for method in methods}
    assert 9 == len(paths)
    assert set() == paths - ACCESS.keys()


async def test_a_session_begins(client: httpx.AsyncClient, bus: EventBus) -> None:
    """With what was given, or with nothing given at all; both levels of events tell it once."""
    with bus.capture_events() as events:
        answer = await client.post(
            "/sessions", json={"session_id": "s-1", "system_prompt": "Be brief.", "details": {"title": "t"}}
        )
    row = answer.json()
    assert ["SessionCreated", "SessionCreatedEvent"] == [type(event).__name__ for event in events]
    assert {
        "session_id": "s-1",
        "active": True,
        "created_by": "api",
        "system_prompt": "Be brief.",
        "details": {"title": "t"},
        "message_count": 0,
        "created_at": row["created_at"],
        "last_activity_at": row["last_activity_at"],
        "ended_at": None,
        "end_reason": None,
    } == row
    assert row == (await client.get("/sessions/s-1")).json()
    minted = [
        (await client.post("/sessions")).json()["session_id"],
        (await client.post("/sessions", json={})).json()["session_id"],
    ]
    assert 2 == len(set(minted))


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"session_id": "a/b"}, "id: must be usable as one part of a URL's path"),
        ({"session_id": ""}, "id: must not be empty"),
        ({"session_id": 5}, "session_id: Input should be a valid string"),
        ({"session_id": "x\0"}, "id: has a control character"),
        ({"system_promt": "x"}, "system_promt: Extra inputs are not permitted"),
        ({"details": []}, "details: Input should be"),
        ({"system_prompt": "a\0"}, "system_prompt: contains a NUL character"),
    ],
)
async def test_what_no_session_can_begin_with(client: httpx.AsyncClient, body: dict[str, Any], says: str) -> None:
    """A 400 that says what was wrong."""
    answer = await client.post("/sessions", json=body)
    assert 400 == answer.status_code
    assert says in answer.json()["error"]


async def test_a_session_that_exists_is_a_conflict(client: httpx.AsyncClient) -> None:
    """Alive or ended."""
    await begin(client)
    expected = (409, {"error": "session s-1 exists already"})
    for _ in range(2):
        answer = await client.post("/sessions", json={"session_id": "s-1"})
        assert expected == (answer.status_code, answer.json())
        await client.delete("/sessions/s-1")


async def test_pages(client: httpx.AsyncClient) -> None:
    """The one with the latest activity first; ended ones only when they are wanted."""
    for number in range(4):
        await begin(client, f"s-{number}")
    await client.delete("/sessions/s-2")
    page = (await client.get("/sessions", params={"limit": 2})).json()
    assert (["s-3", "s-1"], 2, 2, 0) == (
        [row["session_id"] for row in page["sessions"]],
        page["count"],
        page["limit"],
        page["offset"],
    )
    page = (await client.get("/sessions", params={"limit": 2, "offset": 2})).json()
    assert ["s-0"] == [row["session_id"] for row in page["sessions"]]
    page = (await client.get("/sessions", params={"active_only": False})).json()
    assert [("s-3", True), ("s-2", False), ("s-1", True), ("s-0", True)] == [
        (row["session_id"], row["active"]) for row in page["sessions"]
    ]
    for wrong in ({"limit": 0}, {"limit": 1001}, {"offset": -1}, {"offset": 2**63}, {"active_only": "perhaps"}):
        assert 400 == (await client.get("/sessions", params=wrong)).status_code


async def test_the_history(client: httpx.AsyncClient, sessions: SessionManager) -> None:
    """In the chat format, with the agent and the turn beside it, at once; also of an ended session."""
    await begin(client)
    call = {"id": "c-1", "type": "function", "function": {"name": "echo", "arguments": "{}"}}
    await sessions.add_message("s-1", {"role": "user", "content": "\ud800 日本"})
    await sessions.add_message("s-1", {"role": "assistant", "content": None, "tool_calls": [call]}, "coder")
    await sessions.add_message("s-1", {"role": "tool", "tool_call_id": "c-1", "content": "ok"})
    for _ in range(2):
        body = (await client.get("/sessions/s-1/history")).json()
        assert ("s-1", 3) == (body["session_id"], body["count"])
        assert [("user", None), ("assistant", "coder"), ("tool", None)] == [
            (row["role"], row["agent"]) for row in body["messages"]
        ]
        assert ("\\ud800 日本", [call], "c-1") == (
            body["messages"][0]["content"],
            body["messages"][1]["tool_calls"],
            body["messages"][2]["tool_call_id"],
        )
        await client.delete("/sessions/s-1")


async def test_what_waits_for_a_person(client: httpx.AsyncClient) -> None:
    """As whoever keeps approvals has it."""
    await begin(client)
    body = (await client.get("/sessions/s-1/pending-approvals")).json()
    assert {"session_id": "s-1", "pending_approvals": [{**WAITING, "session_id": "s-1"}], "count": 1} == body


async def test_a_session_ends(client: httpx.AsyncClient, bus: EventBus) -> None:
    """Ending it again changes nothing, and is no error."""
    await begin(client)
    with bus.capture_events() as events:
        for _ in range(2):
            answer = await client.delete("/sessions/s-1")
            assert (200, {"session_id": "s-1", "status": "deleted"}) == (answer.status_code, answer.json())
    assert ["session_deleted"] == [event.event_type for event in events]
    row = (await client.get("/sessions/s-1")).json()
    assert (False, "deleted") == (row["active"], row["end_reason"])


@pytest.mark.parametrize("session_id", ["nobody", "%00", "%ED%A0%80", "x" * 300])
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/sessions/{}"),
        ("GET", "/sessions/{}/history"),
        ("GET", "/sessions/{}/pending-approvals"),
        ("DELETE", "/sessions/{}"),
        ("GET", "/agents/{}/current"),
        ("POST", "/agents/{}/switch"),
    ],
)
async def test_what_is_not_there(client: httpx.AsyncClient, method: str, path: str, session_id: str) -> None:
    """A 404 that says so, also for ids that no session can have."""
    body = {"agent_type": "coder"} if method == "POST" else None
    answer = await client.request(method, path.format(session_id), json=body)
    assert 404 == answer.status_code
    assert answer.json()["error"].startswith("there is no session ")


async def test_the_agents(client: httpx.AsyncClient) -> None:
    """Each with its tools and files, and without its prompt."""
    body = (await client.get("/agents")).json()
    rows = {row["name"]: row for row in body["agents"]}
    assert ({"orchestrator", "coder", "architect", "debug", "ask", "universal"}, 6) == (set(rows), body["count"])
    assert {"name": "orchestrator", "tools": ["read_file", "list_files", "search_in_code"], "file_rule": ""} == rows[
        "orchestrator"
    ]
    assert ("*.md", None) == (rows["architect"]["file_rule"], rows["universal"]["tools"])


async def test_a_session_is_passed_on(client: httpx.AsyncClient, bus: EventBus) -> None:
    """Once; the current agent is the new one as soon as the answer is there."""
    await begin(client)
    current = (await client.get("/agents/s-1/current")).json()
    assert ("orchestrator", 0, []) == (current["current_agent"], current["switch_count"], current["agent_history"])
    with bus.capture_events() as events:
        first = (await client.post("/agents/s-1/switch", json={"agent_type": "coder", "reason": "code"})).json()
        again = (await client.post("/agents/s-1/switch", json={"agent_type": "coder"})).json()
    assert ("orchestrator", "coder", True) == (first["from_agent"], first["to_agent"], first["switched"])
    assert ("coder", "coder", False) == (again["from_agent"], again["to_agent"], again["switched"])
    assert ["agent_switched"] == [event.event_type for event in events]
    current = (await client.get("/agents/s-1/current")).json()
    assert ("coder", 1) == (current["current_agent"], current["switch_count"])
    (switch,) = current["agent_history"]
    assert ("orchestrator", "coder", "code", events[0].event_id) == (
        switch["from_agent"],
        switch["to_agent"],
        switch["reason"],
        switch["event_id"],
    )


async def test_switches_that_are_refused(client: httpx.AsyncClient) -> None:
    """An unknown agent, a body that says nothing, and one switch too many."""
    await begin(client)
    answer = await client.post("/agents/s-1/switch", json={"agent_type": "poet"})
    assert (400, True) == (answer.status_code, answer.json()["error"].startswith("there is no agent 'poet'; there are"))
    assert 400 == (await client.post("/agents/s-1/switch", json={})).status_code
    statuses = [
        (await client.post("/agents/s-1/switch", json={"agent_type": agent})).status_code
        for agent in ("coder", "debug", "ask")
    ]
    assert [200, 200, 409] == statuses


async def test_a_database_that_is_away_is_a_503(bus: EventBus) -> None:
    """With the advice to come back; no word of what it said."""
    away = Database("postgresql://nobody:hunter2@127.0.0.1:1/none")
    expected = (503, "1", {"error": "the database does not answer; try again"})
    async with client_of(application(bus, away, SessionManager(bus, away))) as client:
        for answer in (await client.get("/sessions/s-1"), await client.get("/agents/s-1/current")):
            assert expected == (answer.status_code, answer.headers["retry-after"], answer.json())
    await away.close()
