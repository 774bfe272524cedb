"""One agent that does everything."""

from pathlib import Path

from tests.openai_fixture import OpenAIServer
from tests.runtime.sse import send, text
from tests.runtime.world import says, types, world


def test_a_single_agent(tmp_path: Path, model: OpenAIServer) -> None:
    """Nobody routes; it has every tool, and the session's own prompt goes before its own."""
    model.play(says("Done."))
    with world(tmp_path, model, {"AGENT_RUNTIME__MULTI_AGENT_MODE": "false"}) as service:
        session = {"session_id": "s1", "system_prompt": "Answer in verse."}
        assert 201 == service.client.post("/sessions", json=session).status_code
        assert "Done." == text(send(service, "s1", content="Do it."))
        (request,) = model.bodies()
        assert request["messages"][0]["content"].startswith("Answer in verse.\n\nYou are a software engineer")
        names = {tool["function"]["name"] for tool in request["tools"]}
        assert {"echo", "calculator", "switch_mode", "write_file", "execute_command", "move_file"} < names
        assert "agent_switched" not in types(service, "s1")
        assert "universal" == service.client.get("/agents/s1/current").json()["current_agent"]
