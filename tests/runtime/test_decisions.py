"""What people decide about a call, or do not: once, by whoever may, and in time."""

import asyncio
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from agent_runtime.api.auth import Role
from tests.api.test_auth import KEYS, VARIABLES
from tests.openai_fixture import OpenAIServer
from tests.postgres_server import PostgresServer
from tests.real_data import total
from tests.runtime.sse import body, errors, read, refusal, send, text
from tests.runtime.world import calls, history, roots, says, settled, stored, to, types, world
from tests.service import Service

HANDS = 200
COUNTING = {"command": "python3 -c \"open('runs.txt', 'a').write('x')\""}
RUNS = (to("coder"), calls(("c1", "execute_command", COUNTING)), says("Run."))


@pytest.fixture(scope="module")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresServer]:
    """A PostgreSQL."""
    with PostgresServer(tmp_path_factory.mktemp("postgres")) as server:
        yield server


async def decide_at_once(service: Service) -> list[tuple[int, str]]:
    """Decisions of many, half of them over the stream: the status of each, and what was streamed after it."""

    async def post(client: httpx.AsyncClient) -> tuple[int, str]:
        return (await client.post("/approvals/c1/decision", json={"decision": "approve"})).status_code, ""

    async def stream(client: httpx.AsyncClient) -> tuple[int, str]:
        message = body("s1", type="hitl_decision", call_id="c1", decision="approve")
        response = await client.post("/agent/message/stream", json=message)
        is_stream = response.headers["content-type"].startswith("text/event-stream")
        return response.status_code, text(list(read(iter(response.text.splitlines())))) if is_stream else ""

    limits = httpx.Limits(max_connections=HANDS)
    async with httpx.AsyncClient(base_url=service.url, trust_env=False, timeout=60, limits=limits) as client:
        return await asyncio.gather(*((stream if hand % 2 else post)(client) for hand in range(HANDS)))


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_many_hands_on_one_call(
    tmp_path: Path, model: OpenAIServer, database: str, request: pytest.FixtureRequest
) -> None:
    """Of 200 decisions at once exactly one is taken, and the tool runs once."""
    environ = {}
    if database == "postgresql":
        environ["AGENT_RUNTIME__SESSIONS_DB_URL"] = request.getfixturevalue("postgres").new_database()
    model.play(*RUNS)
    with world(tmp_path, model, environ) as service:
        send(service, "s1", content="Run it.")
        answers = asyncio.run(decide_at_once(service))
        assert Counter({409: HANDS - 1, 200: 1}) == Counter(status for status, _ in answers)
        exposition = settled(service, 1)
        assert "x" == (tmp_path / "workspace" / "runs.txt").read_text()
        kinds = Counter(types(service, "s1"))
        assert (1, 1, 1) == (
            kinds["hitl_decision_made"],
            kinds["tool_execution_started"],
            kinds["tool_execution_completed"],
        )
        assert 2 == kinds["agent_processing_completed"]
        assert 1 == total(exposition, "agent_runtime_hitl_decisions_total")
        assert "Run." == history(service, "s1")[-1]["content"]
        assert "Traceback" not in service.log


def test_nobody_decides(tmp_path: Path, model: OpenAIServer) -> None:
    """When the time is up the call is refused, the model is told, and the turn goes on and ends in the same trace."""
    model.play(
        to("coder"), calls(("c1", "write_file", {"path": "a", "content": "a"}), when="^user: W"), says("Then not.")
    )
    with world(tmp_path, model, {"AGENT_RUNTIME__APPROVAL_TIMEOUT_SECONDS": "1"}) as service:
        send(service, "s1", content="Write it.")
        exposition = settled(service, 1)
        assert [] == list((tmp_path / "workspace").iterdir())
        said = history(service, "s1")
        assert "Error: Nobody approved this call in time, so it was not run." == said[2]["content"]
        assert "Then not." == said[3]["content"]
        events = stored(service, session_id="s1")
        assert 1 == len({event["correlation_id"] for event in events})
        assert ["session_created"] == roots(events)
        assert 1 == types(service, "s1").count("hitl_timeout_occurred")
        assert 1 == total(exposition, "agent_runtime_hitl_decisions_total", decision="timeout")
        assert 1 == total(exposition, "gen_ai_invoke_workflow_duration_seconds_count", error_type="")
        assert 0 == total(exposition, "agent_runtime_hitl_pending")
        late = service.client.post("/approvals/c1/decision", json={"decision": "approve"})
        assert (410, "expired") == (late.status_code, late.json()["status"])
        assert 410 == refusal(service, "s1", type="hitl_decision", call_id="c1", decision="approve")[0]
        assert "Then not." == text(send(service, "s1", content="So?"))


def test_who_may_decide(tmp_path: Path, model: OpenAIServer) -> None:
    """The approver's key may decide, by either route, and do nothing else; the reader's may look."""
    model.play(to("coder"), calls(("c1", "create_directory", {"path": "d"}), when="^user: M"), says("Made."))
    with world(tmp_path, model, VARIABLES) as service:
        key = {role: {"X-Internal-Auth": KEYS[role]} for role in Role}
        send(service, "s1", key[Role.ADMIN], content="Make it.")
        path, decision = "/approvals/c1/decision", {"decision": "approve"}
        for role in (Role.READ, Role.INGEST, Role.SCRAPE):
            assert 403 == service.client.post(path, json=decision, headers=key[role]).status_code
        message = body("s1", type="hitl_decision", call_id="c1", decision="approve")
        for role in (Role.READ, Role.INGEST, Role.SCRAPE):
            answer = service.client.post("/agent/message/stream", json=message, headers=key[role])
            assert 403 == answer.status_code
        others = ({"content": "Hello"}, {"type": "switch_agent", "agent_type": "ask"})
        others += ({"type": "tool_result", "call_id": "c1", "result": "x"},)
        for other in others:
            answer = service.client.post("/agent/message/stream", json=body("s1", **other), headers=key[Role.APPROVER])
            assert (403, {"error": "this needs a key of the role admin"}) == (answer.status_code, answer.json())
        for role in (Role.READ, Role.APPROVER):
            assert 1 == service.client.get("/approvals", headers=key[role]).json()["count"]
        events = send(service, "s1", key[Role.APPROVER], type="hitl_decision", call_id="c1", decision="approve")
        assert ([], "Made.") == (errors(events), text(events))
        again = service.client.post(path, json=decision, headers=key[Role.APPROVER])
        assert (409, "approver") == (again.status_code, again.json()["decided_by"])
        assert [] == [secret for secret in KEYS.values() if secret in service.log]
        assert 0 == total(metrics_with(service, key[Role.SCRAPE]), "agent_runtime_hitl_pending")


def metrics_with(service: Service, headers: dict[str, str]) -> str:
    """The exposition, for who has a key for it."""
    return service.client.get("/metrics", headers=headers).text
