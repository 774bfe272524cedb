import asyncio
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_runtime.llm.client import Answer, LLMError, Message, TextDelta
from agent_runtime.llm.scenes import AGENTS, SCENES
from agent_runtime.llm.scripted import ScriptedClient

# The required arguments of the tools, and the agents' tools, as users know them.
REQUIRED = {
    "echo": {"text"},
    "calculator": {"expr"},
    "switch_mode": {"mode"},
    "read_file": {"path"},
    "write_file": {"path", "content"},
    "list_files": {"path"},
    "create_directory": {"path"},
    "execute_command": {"command"},
    "search_in_code": {"query"},
    "delete_file": {"path"},
    "move_file": {"source", "destination"},
    "attempt_completion": {"result"},
    "ask_followup_question": {"question"},
}
READING = {"read_file", "list_files", "search_in_code"}
TALKING = {"attempt_completion", "ask_followup_question"}
TOOLS = {
    "orchestrator": READING,
    "coder": READING | TALKING | {"write_file", "create_directory", "execute_command"},
    "architect": READING | TALKING | {"write_file", "switch_mode"},
    "debug": READING | TALKING | {"execute_command", "switch_mode"},
    "ask": READING | {"attempt_completion", "switch_mode"},
    "universal": set(REQUIRED),
    "": set(),
}
QUESTION = (
    'Choose who should take the message: coder, architect, debug, ask. Answer with {"agent": "…", "confidence": '
    '"high|medium|low", "reasoning": "…"}.'
)
LOOK = ["list_files", "search_in_code"]

# For each row of SCENES a message, and the tools that it is answered with, step by step.
PLAYS: list[tuple[str, str, list[list[str]]]] = [
    ("universal", "How much is 3 * (4 + 5)?", [["calculator"], []]),
    ("universal", "Echo this", [["echo"], []]),
    ("universal", "Delete old.txt", [["delete_file"], []]),
    ("universal", "Rename a.py", [["move_file"], []]),
    ("coder", "Help!", [["ask_followup_question"], []]),
    ("coder", "Create a folder called docs", [["create_directory"], ["attempt_completion"], []]),
    ("coder", "Write notes.md", [LOOK, ["write_file"], ["attempt_completion"], []]),
    ("coder", "Run the tests", [["execute_command"], []]),
    ("architect", "Design and build a cache", [["write_file"], ["switch_mode"], []]),
    ("architect", "Design a cache", [LOOK, ["write_file"], ["attempt_completion"], []]),
    ("debug", "Fix the crash in main.py", [["read_file", "search_in_code"], ["switch_mode"], []]),
    ("debug", "Why does it crash?", [[*LOOK, "execute_command"], ["attempt_completion"], []]),
    ("ask", "Write notes.md", [["switch_mode"], []]),
    ("ask", "What does this module do?", [LOOK, ["attempt_completion"], []]),
    ("orchestrator", "Hello", [["list_files"], []]),
    ("coder", "Hm", [LOOK, []]),
    ("ask", "What is a monad?", [[]]),
]


def specs(names: set[str]) -> list[Message]:
    """Schemas of the tools of these names, as far as the script reads them."""
    return [{"type": "function", "function": {"name": name}} for name in sorted(names)]


def fast(**options: Any) -> ScriptedClient:
    """A client that does not pause."""
    return ScriptedClient(chunk_delay_seconds=0, **options)


async def said(client: ScriptedClient, messages: list[Message], agent: str) -> list[TextDelta | Answer]:
    """Everything that one call streams."""
    return [item async for item in client.stream(model="m", messages=messages, tools=specs(TOOLS[agent]))]


async def answered(client: ScriptedClient, messages: list[Message], agent: str) -> Answer:
    """The answer of one call."""
    answer = (await said(client, messages, agent))[-1]
    assert isinstance(answer, Answer)
    return answer


async def turn(
    agent: str, message: str, result: str = "ok", switches: bool = True, **options: Any
) -> list[tuple[str, Answer]]:
    """A whole turn in which every tool says ``result``, and switches come about or are refused."""
    client = fast(**options)
    messages: list[Message] = [{"role": "system", "content": "You are one."}, {"role": "user", "content": message}]
    answers: list[tuple[str, Answer]] = []
    while not answers or (answers[-1][1].tool_calls and len(answers) < 20):
        answer = await answered(client, messages, agent)
        answers.append((agent, answer))
        calls = [
            {"id": call.call_id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in answer.tool_calls
        ]
        messages.append({"role": "assistant", "content": answer.text or None, "tool_calls": calls})
        for call in answer.tool_calls:
            messages.append({"role": "tool", "tool_call_id": call.call_id, "content": result})
            if call.name == "switch_mode" and switches:
                agent = json.loads(call.arguments)["mode"]
    return answers


def names(answers: list[tuple[str, Answer]]) -> list[list[str]]:
    """The tools that each answer asks for."""
    return [[call.name for call in answer.tool_calls] for _, answer in answers]


@pytest.mark.parametrize(("row", "play"), list(enumerate(PLAYS)))
async def test_every_scene_is_played_to_its_end(row: int, play: tuple[str, str, list[list[str]]]) -> None:
    """Each row answers its message with its tools, step by step, and ends with a text."""
    agent, message, expected = play

    answers = await turn(agent, message, switches=False)

    assert (expected, True) == (names(answers), agent in SCENES[row].agents and bool(answers[-1][1].text))


def test_no_scene_is_left_out() -> None:
    """A row that is added is played by a row of this test."""
    assert len(SCENES) == len(PLAYS)


@pytest.mark.parametrize(("agent", "message", "steps"), PLAYS)
async def test_tool_calls_are_valid(agent: str, message: str, steps: list[list[str]]) -> None:
    """Every call is of a tool that is offered, and its arguments are JSON with all that is required."""
    calls = [call for _, answer in await turn(agent, message) for call in answer.tool_calls if answer]

    missing = [REQUIRED[call.name] - json.loads(call.arguments).keys() for call in calls]
    assert [set()] * len(calls) == missing


def test_every_agent_has_a_scene_and_is_known_by_its_tools() -> None:
    """The table of agents knows each by the tools that it is offered."""
    found = {name: next(agent for agent, tools in AGENTS if tools <= TOOLS[name]) for name in TOOLS if name}

    assert ({name: name for name in found}, set()) == (
        found,
        found.keys() - {agent for scene in SCENES for agent in scene.agents},
    )


def test_switches_lead_to_who_can_not_switch() -> None:
    """That is how the script knows that a switch has come about."""
    modes = {
        call.arguments["mode"]
        for scene in SCENES
        for step in scene.steps
        for call in step.calls
        if "mode" in call.arguments
    }

    assert [] == [mode for mode in modes if "switch_mode" in TOOLS[mode]]


async def test_after_a_switch_the_other_agent_plays_its_own_scene() -> None:
    """Who takes over begins at the beginning, though the history has the first agent's answers."""
    answers = await turn("debug", "Fix the crash in main.py")

    expected = [
        ("debug", ["read_file", "search_in_code"]),
        ("debug", ["switch_mode"]),
        ("coder", ["list_files", "search_in_code"]),
        ("coder", ["write_file"]),
        ("coder", ["attempt_completion"]),
        ("coder", []),
    ]
    assert expected == list(zip([agent for agent, _ in answers], names(answers), strict=True))


@pytest.mark.parametrize(
    "result", ["Rejected by a person: not in this folder.", "error: no such directory", "The approval has expired."]
)
async def test_what_was_refused_is_not_called_done(result: str) -> None:
    """A call that was not allowed, or failed, ends the scene with its reason."""
    answers = await turn("coder", "Write notes.md", result)

    assert ([LOOK, ["write_file"], []], True) == (
        names(answers),
        answers[-1][1].text.startswith(f"I have not written notes.md: {result}"),
    )


async def test_what_is_quoted_is_what_is_written() -> None:
    """A message that says what to write into which file is taken at its word."""
    answers = await turn("coder", 'Write "hello" into docs/notes.md')

    expected = {"path": "docs/notes.md", "content": "hello\n", "create_dirs": True}
    assert expected == json.loads(answers[1][1].tool_calls[0].arguments)


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("Why does main.py crash?", "debug"),
        ("Design a cache", "architect"),
        ("Write notes.md", "coder"),
        ("Run the tests", "coder"),
        ("What is a monad?", "ask"),
        ("Напиши notes.md", "coder"),
        ("Hm", "ask"),
        ("First line.\n\nWrite notes.md", "coder"),
    ],
)
async def test_routing_is_answered_with_json(message: str, expected: str) -> None:
    """The orchestrator's question is answered with agent, confidence and reasoning, whichever way it is put."""
    asked: list[list[Message]] = [
        [{"role": "user", "content": f"{QUESTION}\n\nMessage:\n{message}"}],
        [{"role": "system", "content": QUESTION}, {"role": "user", "content": message}],
    ]
    decisions = [json.loads((await answered(fast(), messages, "")).text) for messages in asked]

    assert [expected, expected] == [decision["agent"] for decision in decisions]
    assert [{"agent", "confidence", "reasoning"}] * 2 == [set(decision) for decision in decisions]


async def test_the_text_streams_in_small_pieces() -> None:
    """The pieces are the answer's text, and there are many of them."""
    *deltas, answer = await said(fast(), [{"role": "user", "content": "What is a monad?"}], "ask")

    assert isinstance(answer, Answer)
    assert answer.text == "".join(delta.text for delta in deltas)
    assert len(deltas) > 5


async def test_an_answer_without_text_still_has_a_first_chunk() -> None:
    """A stream that is nothing but tool calls begins with an empty text."""
    items = await said(fast(), [{"role": "user", "content": "Echo this"}], "universal")

    assert [TextDelta("")] == items[:-1]


async def test_usage_follows_from_the_lengths() -> None:
    """Longer messages cost more, the total is the sum, and a later call finds its conversation's beginning cached."""
    answers = [answer for _, answer in await turn("coder", "Write notes.md")]

    prompts = [answer.usage.prompt_tokens for answer in answers]
    assert prompts == sorted(set(prompts))
    assert [0] * len(answers) == [
        answer.usage.total_tokens - answer.usage.prompt_tokens - answer.usage.completion_tokens for answer in answers
    ]
    assert 0 == answers[0].usage.cached_tokens
    assert 0 < answers[-1].usage.cached_tokens < answers[-1].usage.prompt_tokens


async def test_with_a_seed_everything_repeats() -> None:
    """The same seed and the same calls give the same answers, ids of calls included."""
    assert await turn("coder", "Write a thing", seed=7) == await turn("coder", "Write a thing", seed=7)


async def test_seeds_differ_and_without_one_ids_are_unique() -> None:
    """Another seed plays the same scene in other words; without a seed no two calls of two clients share an id."""
    texts = {(await turn("coder", "Write a thing", seed=seed))[1][1].text for seed in range(10)}
    first, second = [
        {call.call_id for _, answer in await turn("coder", "Write a thing") for call in answer.tool_calls}
        for _ in range(2)
    ]

    assert (True, set()) == (len(texts) > 1, first & second)


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("Please simulate an outage", "server_error"),
        ("simulate a timeout", "timeout"),
        ("simulate a rate limit", "rate_limit"),
    ],
)
async def test_failures_can_be_asked_for(message: str, expected: str) -> None:
    """A message may make the model fail, in the routing call and in the agent's."""
    asked = [([{"role": "user", "content": message}], "coder"), ([{"role": "user", "content": QUESTION + message}], "")]
    errors = []
    for messages, agent in asked:
        with pytest.raises(LLMError) as caught:
            await said(fast(), messages, agent)
        errors.append(caught.value.error_type)

    assert [expected, expected] == errors


async def test_a_share_of_the_calls_fails() -> None:
    """The share is of all calls, however alike they are."""
    client = fast(failure_share=0.3, seed=1)
    messages: list[Message] = [{"role": "user", "content": "What is a monad?"}]
    outcomes = await asyncio.gather(*(said(client, messages, "ask") for _ in range(1000)), return_exceptions=True)

    failures = sum(isinstance(outcome, LLMError) for outcome in outcomes)
    assert 250 < failures < 350


@given(
    agent=st.sampled_from(list(TOOLS)),
    message=st.text() | st.sampled_from([message for _, message, _ in PLAYS]),
    result=st.text() | st.sampled_from(["ok", "error: no", "Rejected."]),
    switches=st.booleans(),
)
def test_every_turn_ends(agent: str, message: str, result: str, switches: bool) -> None:
    """Whatever is said, and whatever the tools say, a turn is over after a few answers, and can be stored."""
    answers = asyncio.run(turn(agent, message, result, switches))

    assert len(answers) <= 8
    assert [] == [call.name for name, answer in answers for call in answer.tool_calls if call.name not in TOOLS[name]]
    for _, answer in answers:
        answer.text.encode()
