"""The agents' table and the router."""

import pytest

from agent_runtime.agents import AGENTS, AgentRouter
from agent_runtime.events import EventBus

# From the contract: agent, tools, files it may write (None: any, empty: none).
CONTRACT = {
    "orchestrator": ({"read_file", "list_files", "search_in_code"}, ""),
    "coder": (
        {
            "read_file",
            "write_file",
            "list_files",
            "search_in_code",
            "create_directory",
            "execute_command",
            "attempt_completion",
            "ask_followup_question",
        },
        None,
    ),
    "architect": (
        {
            "read_file",
            "write_file",
            "list_files",
            "search_in_code",
            "attempt_completion",
            "ask_followup_question",
            "switch_mode",
        },
        "*.md",
    ),
    "debug": (
        {
            "read_file",
            "list_files",
            "search_in_code",
            "execute_command",
            "attempt_completion",
            "ask_followup_question",
            "switch_mode",
        },
        "",
    ),
    "ask": ({"read_file", "search_in_code", "list_files", "attempt_completion", "switch_mode"}, ""),
    "universal": (None, None),
}


def test_agents_are_those_of_the_contract() -> None:
    """Each agent has exactly the tools and files that the contract gives it."""
    ours = {name: (None if a.tools is None else set(a.tools), a.file_rule) for name, a in AGENTS.items()}
    assert CONTRACT == ours


@pytest.mark.parametrize(
    ("answer", "agent", "confidence"),
    [
        ('{"agent": "debug", "confidence": "high", "reasoning": "a traceback"}', "debug", "high"),
        ('Sure!\n```json\n{"agent": "coder", "confidence": "medium", "reasoning": ""}\n```', "coder", "medium"),
        ('{"agent": "coder"}', "coder", "medium"),
        ('{"agent": "nobody", "confidence": "high"}', "architect", "low"),
        ("I would take the coder", "architect", "low"),
        ("{not json}", "architect", "low"),
        ("", "architect", "low"),
        ('{"agent": ["coder"]}', "architect", "low"),
    ],
)
def test_routing_reads_what_it_can_and_falls_back_on_keywords(answer: str, agent: str, confidence: str) -> None:
    """A decision is taken from JSON anywhere in the answer; else the message's words decide, with confidence low."""
    routing = AgentRouter().read(answer, "Plan the architecture and the structure of the importer")
    assert (agent, confidence) == (routing.agent, routing.confidence)


def test_a_message_without_keywords_goes_to_the_one_who_explains() -> None:
    """There is always an agent."""
    assert "ask" == AgentRouter().by_keywords("Guten Morgen").agent


def test_an_unknown_agent_is_named_with_those_there_are() -> None:
    """The error tells what would have been right."""
    with pytest.raises(LookupError, match="no agent 'pilot', only orchestrator, coder"):
        AgentRouter().get("pilot")


async def test_registration_publishes_each_agent() -> None:
    """One agent_registered an agent, in order."""
    bus = EventBus()
    with bus.capture_events() as events:
        await AgentRouter().register(bus)
    assert list(AGENTS) == [event.data["agent"] for event in events]
