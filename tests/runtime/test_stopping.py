"""An orderly end in the middle of things."""

import time
from pathlib import Path

from tests.openai_fixture import OpenAIServer
from tests.runtime.sse import Listener, errors, send, text
from tests.runtime.world import calls, history, roots, says, stored, to, types, world


def test_stopped_during_a_stream(tmp_path: Path, model: OpenAIServer) -> None:
    """The stream ends with an error and `done`, the run as cancelled, all within five seconds; what waits goes on."""
    model.play(
        to("coder"),
        calls(("c1", "create_directory", {"path": "d"}), when="^user: Make"),
        {"when": {"last": "^user: Talk"}, "text": ["Let me"], "fault": "hang", "after": 2},
        says("Here."),
    )
    with world(tmp_path, model) as service:
        send(service, "waits", content="Make it.")
        listener = Listener(service, "talks", content="Talk.")
        service.wait_until(lambda: "Let me" == text(listener.events), "the first words")
        began = time.monotonic()
        assert 0 == service.stop()
        # The bar of the design itself, not a measurement.
        assert time.monotonic() - began < 5
        events = listener.wait()
        assert (["cancelled"], ("done", {"status": "completed"})) == (errors(events), events[-1])
        service.start()
        assert "Traceback" not in service.log
        kinds = ["llm_request_failed", "agent_error_occurred", "agent_processing_completed"]
        assert kinds == types(service, "talks")[-3:]
        assert [True, False] == [
            event["data"]["success"]
            for event in stored(service, session_id="talks", event_type="agent_processing_completed")
        ]
        shutdown = stored(service, event_type="system_shutdown")
        assert [(None, None)] == [(event["correlation_id"], event["causation_id"]) for event in shutdown]
        assert "Here." == text(send(service, "talks", content="Still there?"))
        assert "Here." == text(send(service, "waits", type="hitl_decision", call_id="c1", decision="approve"))
        assert ["session_created"] == roots(stored(service, session_id="waits"))
        assert ["user", "assistant", "tool", "assistant"] == [row["role"] for row in history(service, "waits")]
