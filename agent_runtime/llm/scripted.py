"""A model that plays ``scenes``: offline, with no knowledge, and always the same."""

from __future__ import annotations

import asyncio
import json
import random
import re
from collections.abc import AsyncGenerator, Mapping, Sequence
from pathlib import PurePosixPath
from string import Template

from agent_runtime.llm.client import Answer, LLMError, Message, TextDelta, ToolCall, Usage
from agent_runtime.llm.scenes import (
    ADVICE,
    AGENTS,
    CONTENTS,
    FAULTS,
    GUARDED,
    OPENINGS,
    ROUTES,
    SCENES,
    Call,
    Scene,
    Step,
)

ROUTING_KEYS = ("agent", "confidence", "reasoning")
CHARACTERS_PER_TOKEN = 4
CACHE_BLOCK_TOKENS = 128
RESULT_CHARACTERS = 120
TOPIC_CHARACTERS = 60

_PIECE = re.compile(r"\s*\S{1,12}\s*|\s+")
_FILE = re.compile(r"\b[\w/-][\w./-]{0,200}\.(?:py|md|txt|json|toml|ya?ml|js|ts|html|css|sh|cfg|ini|csv|rs|go)\b")
_EXPRESSION = re.compile(r"[\d(][\d\s.()+*/-]{0,80}[\d)]")
_QUOTED = re.compile(r"[\"“«]([^\"”»]{1,10000})[\"”»]")
_WENT_WRONG = re.compile(
    r"\b(?:reject|refus|denied|declin|timed out|timeout|expired|not (?:approved|allowed|found)|may (?:only|not)|"
    r"error\b|failed|no such)",
    re.IGNORECASE,
)
_FOLDER = re.compile(r"\b(?:folder|directory|mkdir)\s+(?:called\s+|named\s+)?(\w[\w-]{0,60})", re.IGNORECASE)
_FILES = ("notes.md", "main.py", "helpers.py", "report.md")
_DONE = Step("That was all that I had to do.")


class ScriptedClient:
    """A provider without a model.

    An answer depends on the messages, the tools and the seed alone, except for the ids of tool calls and for the share
    of calls that fail: they come from one generator, so they repeat if the same calls are made in the same order.

    Args:
        chunk_delay_seconds: pause before each piece of text, a word or less.
        failure_share: how many of all calls fail, from 0 to 1, as if the provider answered 503.
        seed: None for call ids that are unique everywhere, as a service needs them that keeps approvals.
    """

    provider = "scripted"

    def __init__(
        self, *, chunk_delay_seconds: float = 0.02, failure_share: float = 0.0, seed: int | None = None
    ) -> None:
        self._chunk_delay_seconds = chunk_delay_seconds
        self._failure_share = failure_share
        self._seed = seed or 0
        self._random = random.Random(seed)

    async def stream(
        self, *, model: str, messages: Sequence[Message], tools: Sequence[Message]
    ) -> AsyncGenerator[TextDelta | Answer, None]:
        """See ``LLMClient.stream``."""
        asked = _last_text(messages, "user")
        self._fail(asked)
        calls: tuple[ToolCall, ...] = ()
        if _is_routing(messages, tools):
            text = _route(asked, messages)
        else:
            text, calls = self._play(asked, messages, frozenset(tool["function"]["name"] for tool in tools))
        for piece in _PIECE.findall(text) or [""]:
            await asyncio.sleep(self._chunk_delay_seconds)
            yield TextDelta(piece)
        yield Answer(text, calls, _usage(messages, tools, text, calls), "tool_calls" if calls else "stop")

    async def aclose(self) -> None:
        """There is nothing to let go of."""

    def _fail(self, asked: str) -> None:
        for fault in FAULTS:
            if re.search(fault.asks, asked, re.IGNORECASE):
                raise LLMError(fault.error_type, fault.message, retryable=True)
        if self._failure_share > self._random.random():
            raise LLMError("server_error", "the scripted model fails now and then (503)", retryable=True)

    def _play(
        self, asked: str, messages: Sequence[Message], offered: frozenset[str]
    ) -> tuple[str, tuple[ToolCall, ...]]:
        turn = _own_part(messages, offered)
        step = _step(_scene(asked, offered), turn)
        values = self._values(asked, turn)
        calls = tuple(self._call(call, values) for call in step.calls if call.name in offered)
        return Template(step.text).substitute(values), calls

    def _call(self, call: Call, values: Mapping[str, str]) -> ToolCall:
        arguments = {
            name: Template(value).substitute(values) if isinstance(value, str) else value
            for name, value in call.arguments.items()
        }
        return ToolCall(f"call_{self._random.getrandbits(96):024x}", call.name, json.dumps(arguments))

    def _values(self, asked: str, turn: Sequence[Message]) -> dict[str, str]:
        choice = random.Random(f"{self._seed}:{asked}")
        file, folder = _FILE.search(asked), _FOLDER.search(asked)
        expression, quoted = _EXPRESSION.search(asked), _QUOTED.search(asked)
        path = file[0] if file else choice.choice(_FILES)
        topic = " ".join(asked.split())
        values = {
            "path": path,
            "name": PurePosixPath(path).stem,
            "topic": topic if len(topic) <= TOPIC_CHARACTERS else f"{topic[:TOPIC_CHARACTERS].rstrip()}…",
            "expr": expression[0].strip() if expression else "6 * 7",
            "result": _last_text(turn, "tool").strip().partition("\n")[0][:RESULT_CHARACTERS],
            "folder": folder[1] if folder else "src",
            "opening": choice.choice(OPENINGS),
            "advice": choice.choice(ADVICE),
        }
        for key, name in (("code", path), ("document", ".md")):
            values[key] = f"{quoted[1]}\n" if quoted else _content(name, values)
        return values


def _is_routing(messages: Sequence[Message], tools: Sequence[Message]) -> bool:
    """Whether the orchestrator asks who should answer: it offers no tools, and names the keys of the answer."""
    return not tools and any(
        all(key in _text(message) for key in ROUTING_KEYS) for message in messages if message["role"] != "assistant"
    )


def _route(asked: str, messages: Sequence[Message]) -> str:
    """The orchestrator's answer, about an agent that its question names."""
    if all(key in asked for key in ROUTING_KEYS):
        # Question and message are one text, in this order.
        before, mark, after = asked.partition("Message:\n")
        asked = after if mark else before.strip().rpartition("\n")[2]
    question = " ".join(_text(message) for message in messages)
    known = [route for route in ROUTES if route.agent in question] or ROUTES
    found = next((route for route in known if re.search(route.asks, asked, re.IGNORECASE)), known[-1])
    return json.dumps({"agent": found.agent, "confidence": found.confidence, "reasoning": found.reasoning})


def _scene(asked: str, offered: frozenset[str]) -> Scene:
    agent = next(agent for agent, tools in AGENTS if tools <= offered) if offered else ""
    return next(scene for scene in SCENES if agent in scene.agents and re.search(scene.asks, asked, re.IGNORECASE))


def _own_part(messages: Sequence[Message], offered: frozenset[str]) -> Sequence[Message]:
    """What the speaker itself has said and been told since the person's latest message.

    A switch ends the part of the agent that asked for it. If that agent still speaks, the switch was refused.
    """
    begin = 0
    for index, message in enumerate(messages, start=1):
        if message["role"] == "user" or ("switch_mode" not in offered and _asks_for_switch(message)):
            begin = index
    return messages[begin:]


def _content(path: str, values: Mapping[str, str]) -> str:
    # The topic may end up within quotes.
    plain = re.sub(r"[\"\\\x00-\x1f]", "", values["topic"])
    template = next(text for ending, text in CONTENTS if path.endswith(ending))
    return Template(template).substitute(values, plain=plain)


def _asks_for_switch(message: Message) -> bool:
    return any(call["function"]["name"] == "switch_mode" for call in message.get("tool_calls") or ())


def _step(scene: Scene, turn: Sequence[Message]) -> Step:
    played: int = sum(message["role"] == "assistant" for message in turn)
    if not 0 < played < len(scene.steps):
        return scene.steps[0] if not played else _DONE
    guarded = any(call.name in GUARDED for call in scene.steps[played - 1].calls)
    if guarded and scene.refused and _WENT_WRONG.search(_last_text(turn, "tool")[:RESULT_CHARACTERS]):
        return Step(scene.refused)
    return scene.steps[played]


def _text(message: Message) -> str:
    content = message.get("content")
    return content if isinstance(content, str) else ""


def _last_text(messages: Sequence[Message], role: str) -> str:
    return next((_text(message) for message in reversed(messages) if message["role"] == role), "")


def _usage(messages: Sequence[Message], tools: Sequence[Message], text: str, calls: tuple[ToolCall, ...]) -> Usage:
    """Tokens as if each had four characters; what was sent before the latest message is cached, in whole blocks."""
    before = _tokens(json.dumps([*tools, *messages[:-1]], default=str))
    prompt = before + _tokens(json.dumps(list(messages[-1:]), default=str))
    completion = _tokens(text) + sum(_tokens(call.name + call.arguments) for call in calls)
    cached = before // CACHE_BLOCK_TOKENS * CACHE_BLOCK_TOKENS if len(messages) > 2 else 0
    return Usage(prompt, completion, prompt + completion, cached)


def _tokens(text: str) -> int:
    return -(-len(text) // CHARACTERS_PER_TOKEN)
