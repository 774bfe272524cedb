from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy.ext.asyncio import AsyncSession

from agent_runtime.api.answers import add_error_answers
from agent_runtime.api.approvals import approvals_router
from agent_runtime.api.auth import ACCESS, Gate, Keys, Role
from agent_runtime.events.event_bus import EventBus
from agent_runtime.hitl.arguments import arguments_hash
from agent_runtime.hitl.manager import HITLManager
from agent_runtime.sessions.database import Database
from agent_runtime.sessions.errors import DatabaseUnavailable
from tests.hitl.asking import ARGUMENTS, NEVER, TURN, Clock, ask

KEYS = {"ingest": "i-key", "read": "r-key", "approver": "a-key", "scrape": "s-key", "admin": "admin-key"}
DECIDE = "/approvals/call-1/decision"
APPROVE = {"decision": "approve"}


@pytest.fixture
def clock() -> Clock:
    """The time that the manager goes by."""
    return Clock()


@pytest.fixture
async def manager(tmp_path: Path, clock: Clock) -> AsyncIterator[HITLManager]:
    """On a fresh SQLite file."""
    database = Database(f"sqlite:///{tmp_path / 'runtime.db'}")
    await database.migrate()
    yield HITLManager(EventBus(), database, poll_seconds=NEVER, now=clock)
    await database.close()


def client_of(manager: HITLManager, keys: dict[str, str], key: str | None = None) -> httpx.AsyncClient:
    """A client of the routes behind the gate, with a key or without."""
    app = FastAPI()
    app.include_router(approvals_router(manager))
    add_error_answers(app)
    app.add_middleware(Gate, keys=Keys(keys))
    headers = {} if key is None else {"X-Internal-Auth": key}
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test", headers=headers)


@pytest.fixture
async def approver(manager: HITLManager) -> AsyncIterator[httpx.AsyncClient]:
    """Has the approver's key."""
    async with client_of(manager, KEYS, KEYS["approver"]) as client:
        yield client


async def test_what_is_pending_is_listed_oldest_first(
    approver: httpx.AsyncClient, manager: HITLManager, clock: Clock
) -> None:
    """With all that a person needs to decide, of every session."""
    empty = (await approver.get("/approvals")).json()
    first = await ask(manager)
    clock.pass_by(1)
    second = await ask(manager, session_id="s-2")
    listed = (await approver.get("/approvals")).json()
    assert {"approvals": [], "count": 0} == empty
    assert ([first.id, second.id], 2) == ([row["id"] for row in listed["approvals"]], listed["count"])
    assert {
        "id": first.id,
        "call_id": "call-1",
        "session_id": "s-1",
        "agent": "coder",
        "tool_name": "write_file",
        "arguments": ARGUMENTS,
        "arguments_hash": arguments_hash(ARGUMENTS),
        "reason": "writes a file",
        "correlation_id": TURN,
        "requested_at": "2026-03-01T12:00:00.000000Z",
        "expires_at": "2026-03-01T12:05:00.000000Z",
        "status": "pending",
        "decided_at": None,
        "decided_by": None,
        "modified_arguments": None,
        "feedback": None,
    } == listed["approvals"][0]


async def test_a_decision_answers_with_what_became_of_the_call(
    approver: httpx.AsyncClient, manager: HITLManager, clock: Clock
) -> None:
    """Who decided is the role of the key, not what the body says."""
    approval = await ask(manager)
    body = {
        "decision": "EDIT",
        "modified_arguments": {"path": "b"},
        "feedback": "there",
        "session_id": "s-1",
        "arguments_hash": approval.arguments_hash,
    }
    answer = await approver.post(DECIDE, json=body)
    row = answer.json()
    assert (200, "edited", "approver", {"path": "b"}, "there", "2026-03-01T12:00:00.000000Z") == (
        answer.status_code,
        *(row[key] for key in ("status", "decided_by", "modified_arguments", "feedback", "decided_at")),
    )
    assert 0 == (await approver.get("/approvals")).json()["count"]


async def test_the_second_decision_is_a_conflict_that_names_the_first(
    approver: httpx.AsyncClient, manager: HITLManager
) -> None:
    """With who it was, and when, for people and for programs."""
    await ask(manager)
    await approver.post(DECIDE, json=APPROVE)
    answer = await approver.post(DECIDE, json={"decision": "reject"})
    moment = "2026-03-01T12:00:00.000000Z"
    assert 409 == answer.status_code
    assert {
        "error": f"already approved by approver at {moment}",
        "status": "approved",
        "decided_by": "approver",
        "decided_at": moment,
    } == answer.json()


async def test_a_decision_after_the_deadline_is_gone(
    approver: httpx.AsyncClient, manager: HITLManager, clock: Clock
) -> None:
    """The call was refused."""
    await ask(manager)
    clock.pass_by(300)
    answer = await approver.post(DECIDE, json=APPROVE)
    moment = "2026-03-01T12:05:00.000000Z"
    assert 410 == answer.status_code
    assert {
        "error": f"expired at {moment}: the call was refused",
        "status": "expired",
        "expired_at": moment,
    } == answer.json()


@pytest.mark.parametrize(
    ("path", "body", "status", "error"),
    [
        ("call-2", APPROVE, 404, "no approval was asked for under call-2"),
        ("call-1", {**APPROVE, "session_id": "s-9"}, 404, "no approval was asked for under call-1 in session s-9"),
        ("call-1", {**APPROVE, "arguments_hash": "0" * 64}, 409, "what waits under call-1 has other arguments"),
        ("call-1", {"decision": "yes"}, 400, "decision: must be one of approve, edit, reject, feedback, got 'yes'"),
        ("call-1", {"decision": "edit"}, 400, "modified_arguments: is required"),
        ("call-1", {"decision": "edit", "modified_arguments": []}, 400, "modified_arguments: "),
        ("call-1", {**APPROVE, "modified_args": {"path": "b"}}, 400, "modified_args: "),
        ("call-1", {"decision": 1}, 400, "decision: "),
        ("call-1", {}, 400, "decision: "),
        ("call-1", [], 400, ""),
        ("call-1", {"decision": "reject", "feedback": "\0"}, 400, "decision.feedback: contains a NUL"),
        ("%00", APPROVE, 400, "call_id: has a control character"),
    ],
)
async def test_what_cannot_be_taken_says_why(
    approver: httpx.AsyncClient, manager: HITLManager, path: str, body: Any, status: int, error: str
) -> None:
    """A clear error, and the approval is as it was."""
    await ask(manager)
    answer = await approver.post(f"/approvals/{path}/decision", json=body)
    assert (status, error) == (answer.status_code, answer.json()["error"][: len(error)])
    assert 1 == len(await manager.pending())


@pytest.mark.parametrize("body", [b"", b"{", b'{"decision": "edit", "modified_arguments": {"a": NaN}}', b"[" * 100_000])
async def test_a_body_that_is_no_json_is_refused(
    approver: httpx.AsyncClient, manager: HITLManager, body: bytes
) -> None:
    """With a 400, whatever is wrong with it."""
    await ask(manager)
    answer = await approver.post(DECIDE, content=body, headers={"Content-Type": "application/json"})
    assert (400, ["error"]) == (answer.status_code, list(answer.json()))


async def test_sessions_that_share_a_call_id_are_told_apart(approver: httpx.AsyncClient, manager: HITLManager) -> None:
    """By the session, or by the approval's own id in the path."""
    ours, theirs = await ask(manager), await ask(manager, session_id="s-2")
    ambiguous = await approver.post(DECIDE, json=APPROVE)
    by_session = await approver.post(DECIDE, json={**APPROVE, "session_id": "s-2"})
    by_id = await approver.post(f"/approvals/{ours.id}/decision", json=APPROVE)
    assert (409, theirs.id, ours.id) == (ambiguous.status_code, by_session.json()["id"], by_id.json()["id"])


async def test_a_call_id_may_have_a_slash(approver: httpx.AsyncClient, manager: HITLManager) -> None:
    """Models make up what they like."""
    await ask(manager, call_id="functions/write:0")
    answer = await approver.post("/approvals/functions%2Fwrite:0/decision", json=APPROVE)
    assert (200, "functions/write:0") == (answer.status_code, answer.json()["call_id"])


@pytest.mark.parametrize(
    ("role", "reads", "decides"),
    [
        (None, 401, 401),
        ("ingest", 403, 403),
        ("scrape", 403, 403),
        ("read", 200, 403),
        ("approver", 200, 200),
        ("admin", 200, 200),
    ],
)
async def test_only_an_approver_decides(manager: HITLManager, role: str | None, reads: int, decides: int) -> None:
    """Readers see what waits; nobody else sees even that."""
    await ask(manager)
    async with client_of(manager, KEYS, None if role is None else KEYS[role]) as client:
        answers = [await client.get("/approvals"), await client.post(DECIDE, json=APPROVE)]
    assert [reads, decides] == [answer.status_code for answer in answers]


async def test_without_keys_the_address_stands_for_who_decided(manager: HITLManager) -> None:
    """On loopback, where nobody has to prove who they are."""
    await ask(manager)
    async with client_of(manager, {}) as client:
        answer = await client.post(DECIDE, json=APPROVE)
    assert "someone at 127.0.0.1" == answer.json()["decided_by"]


def test_every_route_has_a_declared_role(manager: HITLManager) -> None:
    """In the table of access, under its exact path."""
    routes = {(method, route.path) for route in approvals_router(manager).routes for method in route.methods}
    assert {route: ACCESS.get(route) for route in routes} == {
        ("GET", "/approvals"): {Role.READ, Role.APPROVER, Role.ADMIN},
        ("POST", "/approvals/{call_id:path}/decision"): {Role.APPROVER, Role.ADMIN},
    }


class LostDatabase(Database):
    """Can't be reached."""

    @asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncSession]:
        """Fails."""
        raise DatabaseUnavailable("connection refused")
        yield


async def test_a_database_that_does_not_answer_is_a_503() -> None:
    """That can be tried again."""
    manager = HITLManager(EventBus(), LostDatabase("sqlite:///never-opened.db"))
    async with client_of(manager, KEYS, KEYS["approver"]) as client:
        answers = [await client.get("/approvals"), await client.post(DECIDE, json=APPROVE)]
    assert [(503, "1"), (503, "1")] == [(answer.status_code, answer.headers["Retry-After"]) for answer in answers]
