"""Secrets that are put in wherever the service takes something in, and looked for wherever it lets something out."""

import subprocess
import sys
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from tests.openai_fixture import OpenAIServer
from tests.otlp_fixture import OtlpReceiver
from tests.service import Service, environ

SHAPES = ("sk-{}", "ghp_{}", "glpat-{}", "hf_{}", "xoxb-{}")
KEYS = ("admin", "ingest", "read", "approver", "scrape")
# Where a secret goes in as content: without capture not even the words around it may come out.
CONTENT = (
    *("message", "system_prompt", "details", "agents_answer", "call_arguments", "remote_arguments"),
    *("edited_arguments", "file_contents", "command_output", "remote_result", "bad_request_body", "unknown_key"),
)
# Where it goes in as a reason or an error, which are kept, but not with a secret in them.
REASONS = ("feedback", "switch_reason", "remote_error", "missing_path", "query", "switch_body")
# Where it goes in as something that nobody has to see at all.
ENDPOINT = ("endpoint_400", "endpoint_401", "endpoint_500", "endpoint_garbage")
CREDENTIALS = (
    *KEYS,
    *("model_key", "otlp_header", "environment_token", "environment_word"),
    *("wrong_bearer", "wrong_key", "session_password"),
)


def word(name: str) -> str:
    """A word that stands beside the secret `name`, and occurs nowhere else."""
    return f"canary{sha256(name.encode()).hexdigest()[:12]}"


def secret(name: str) -> str:
    """The secret `name`: in the shape of a key, but for credentials, which are known by where they stand."""
    digest = sha256(name.encode()).hexdigest()
    if name in CREDENTIALS:
        return f"plain{digest[:20]}"
    return SHAPES[sum(name.encode()) % len(SHAPES)].format(digest[:36])


def text(name: str) -> str:
    """What is put in under `name`."""
    return f"{word(name)} {secret(name)} and more"


@pytest.fixture(scope="module")
def model() -> Iterator[OpenAIServer]:
    """The model's endpoint."""
    with OpenAIServer() as server:
        yield server


def call(name: str, call_id: str, **arguments: Any) -> dict[str, Any]:
    """A tool call of the model's."""
    return {"id": call_id, "name": name, "arguments": arguments}


def play(model: OpenAIServer) -> None:
    """What the model says, by who is asked for what."""
    garbage = f"data: {{{text('endpoint_garbage')}\n\n"
    asks = [
        call("read_file", "c-read", path="notes.txt"),
        call("read_file", "c-missing", path=f"{secret('missing_path')}.txt"),
        call("write_file", "c-write", path="a.txt", content=text("call_arguments")),
        call("execute_command", "c-cat", command="cat output.txt"),
        call("execute_command", "c-env", command="env"),
    ]
    model.play(
        {"when": {"last": "^user: .*first"}, "tool_calls": asks},
        {"when": {"last": "^user: second"}, "tool_calls": [call("write_file", "c-no", path="b.txt", content="b")]},
        {"when": {"last": "^user: third", "tools": "switch_mode"},
         "tool_calls": [call("switch_mode", "c-switch", mode="coder", reason=text("switch_reason"))]},
        {"when": {"last": "^user: fourth"},
         "tool_calls": [call("search_in_code", "c-far", query=text("remote_arguments")),
                        call("search_in_code", "c-off", query="x")]},
        {"when": {"last": "^user: e400"}, "status": 400, "error": {"message": text("endpoint_400"), "code": "bad"}},
        {"when": {"last": "^user: e401"}, "status": 401, "error": text("endpoint_401")},
        {"when": {"last": "^user: e500"}, "status": 500, "error": {"message": text("endpoint_500")}},
        {"when": {"last": "^user: garbage"}, "raw": [garbage]},
        {"text": text("agents_answer")},
    )  # fmt: skip


class Talk:
    """A client of the service; keeps whatever it is told about errors."""

    def __init__(self, service: Service) -> None:
        self.told: list[str] = []
        self._service = service

    def send(self, session_id: str, message: dict[str, Any]) -> str:
        """Send a message; what is streamed."""
        body = {"session_id": session_id, "message": message}
        answer = str(self.request("POST", "/agent/message/stream", json=body).text)
        self.told += [part for part in answer.split("\n\n") if part.startswith("event: error")]
        return answer

    def say(self, session_id: str, content: str, agent: str = "coder") -> str:
        """Say something to an agent; what is streamed."""
        return self.send(session_id, {"type": "user_message", "content": content, "agent_type": agent})

    def request(self, method: str, path: str, **options: Any) -> Any:
        """Any request; the answer."""
        answer = self._service.client.request(method, path, **options)
        if answer.status_code >= 400:
            self.told.append(f"{answer.headers}{answer.text}")
        return answer


def converse(talk: Talk, service: Service) -> None:
    """Put every secret in."""
    settings = {"system_prompt": text("system_prompt"), "details": {"note": text("details")}}
    assert 201 == talk.request("POST", "/sessions", json={"session_id": "one", **settings}).status_code
    talk.say("one", f"first {text('message')}")
    edited = {"path": "a.txt", "content": text("edited_arguments")}
    for call_id, body in (
        ("c-write", {"decision": "edit", "modified_arguments": edited}),
        ("c-cat", {"decision": "approve"}),
        ("c-env", {"decision": "approve"}),
    ):
        answer = talk.request("POST", f"/approvals/{call_id}/decision", json=body)
        assert 200 == answer.status_code, answer.text
    talk.say("two", "second")
    refusal = {"decision": "feedback", "feedback": text("feedback")}
    assert 200 == talk.request("POST", "/approvals/c-no/decision", json=refusal).status_code
    talk.say("three", "third", "ask")
    talk.send("three", {"type": "switch_agent", "agent_type": "debug", "reason": text("switch_body")})
    talk.say("four", "fourth")
    talk.send("four", {"type": "tool_result", "call_id": "c-far", "result": text("remote_result")})
    talk.send("four", {"type": "tool_result", "call_id": "c-off", "error": text("remote_error")})
    for what in ("e400", "e401", "e500", "garbage"):
        assert "event: error" in talk.say(what, what)
    bad = {"session_id": 5, "message": {"type": "user_message", "content": text("bad_request_body")}}
    assert 400 <= talk.request("POST", "/agent/message/stream", json=bad).status_code < 500
    extra = {"session_id": "five", "message": {"type": "user_message", "content": "x", "y": text("unknown_key")}}
    assert 400 <= talk.request("POST", "/agent/message/stream", json=extra).status_code < 500
    wrong = {"X-Internal-Auth": "", "Authorization": f"Bearer {secret('wrong_bearer')}"}
    assert 401 == talk.request("GET", "/sessions", headers=wrong).status_code
    assert 401 == talk.request("GET", "/sessions", headers={"X-Internal-Auth": secret("wrong_key")}).status_code
    assert 200 == talk.request("GET", f"/sessions?api_key={secret('query')}").status_code

    def answered(session_id: str) -> bool:
        history = talk.request("GET", f"/sessions/{session_id}/history").json()["messages"]
        return word("agents_answer") in str(history[-1]["content"])

    for session_id in ("one", "two", "three", "four"):
        if session_id != "three":
            service.wait_until(lambda name=session_id: answered(name), f"the answer in session {session_id}")
    history = talk.request("GET", "/sessions/one/history").text
    assert [True] * 3 == [word(name) in history for name in ("file_contents", "command_output", "message")]
    assert secret("environment_token") not in history
    assert secret("environment_word") not in history


def seen(service: Service, talk: Talk, receiver: OtlpReceiver, folder: Path) -> dict[str, str]:
    """Everything that has come out, by where."""
    paths = ("/metrics", "/events/metrics", "/events/audit-log", "/events/stats", "/events/metrics/sessions")
    views = "".join(
        service.client.get(path).text for path in (*paths, "/events?limit=1000", "/agents", "/openapi.json")
    )
    service.wait_until(lambda: len(receiver.spans()) > 50, "spans")
    assert 0 == service.stop()
    spans = receiver.file.read_text()
    assert "POST /agent/message/stream" in spans
    assert "execute_tool" in spans
    database = b"".join(path.read_bytes() for path in folder.glob("events.db*")).decode(errors="replace")
    return {"views": views, "log": service.log, "spans": spans, "event store": database, "errors": "".join(talk.told)}


@pytest.mark.parametrize("capture", ["false", "true"])
def test_canaries(tmp_path: Path, model: OpenAIServer, capture: str) -> None:
    """No secret comes out in a log, metric, span, event or error; without content capture, nor what is around it."""
    play(model)
    workspace = tmp_path / "workspace"
    workspace.mkdir()
    (workspace / "notes.txt").write_text(text("file_contents"))
    (workspace / "output.txt").write_text(text("command_output"))
    with OtlpReceiver(tmp_path) as receiver:
        keys = {f"AGENT_RUNTIME__{'INTERNAL_API' if key == 'admin' else key.upper()}_KEY": secret(key) for key in KEYS}
        variables = {
            **keys,
            "AGENT_RUNTIME__LLM_PROXY_URL": model.base_url,
            "AGENT_RUNTIME__LLM_API_KEY": secret("model_key"),
            "AGENT_RUNTIME__LOG_LEVEL": "DEBUG",
            "AGENT_RUNTIME__REMOTE_TOOLS": "search_in_code",
            "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT": capture,
            "OTEL_TRACES_EXPORTER": "otlp",
            "OTEL_BSP_SCHEDULE_DELAY": "100",
            **receiver.environ("http/protobuf", HEADERS=f"x-api-key={secret('otlp_header')}"),
            "AWS_SECRET_ACCESS_KEY": secret("environment_token"),
            "SOME_ORDINARY_NAME": secret("environment_word"),
        }
        service = Service(tmp_path, variables, arguments=(), headers={"X-Internal-Auth": secret("admin")})
        with service:
            talk = Talk(service)
            converse(talk, service)
            places = seen(service, talk, receiver, tmp_path)
    hidden = {name: secret(name) for name in (*CONTENT, *REASONS, *ENDPOINT, *CREDENTIALS)}
    hidden |= {f"words of {name}": word(name) for name in ENDPOINT}
    if capture == "false":
        hidden |= {f"words of {name}": word(name) for name in CONTENT}
    assert [] == [(name, place) for name, value in hidden.items() for place, out in places.items() if value in out]
    # The test could not fail if nothing came through at all.
    assert word("switch_reason") in places["event store"]
    assert (word("call_arguments") in places["event store"]) is (capture == "true")


@pytest.mark.parametrize(
    "variables",
    [
        {"AGENT_RUNTIME__SESSIONS_DB_URL": f"postgresql://u:{secret('session_password')}@127.0.0.1:1/x"},
        {"AGENT_RUNTIME__SESSIONS_DB_URL": f"postgresql+nonsense://u:{secret('session_password')}@127.0.0.1:1/x"},
        {"AGENT_RUNTIME__LLM_PROXY_URL": f"http://u:{secret('session_password')}@127.0.0.1:1/v1"},
        {"AGENT_RUNTIME__DB_URL": f"postgresql://u:{secret('session_password')}@127.0.0.1:1/x"},
    ],
)
def test_a_password_in_a_setting_that_fails(tmp_path: Path, variables: dict[str, str]) -> None:
    """A service that can't start says why, without the password."""
    done = subprocess.run(
        [sys.executable, "-m", "agent_runtime.cli", "serve", "--port", "0"],
        cwd=tmp_path,
        env=environ(**variables),
        capture_output=True,
        timeout=60,
        check=False,
    )
    output = (done.stdout + done.stderr).decode()
    assert 0 != done.returncode
    assert output
    assert secret("session_password") not in output
