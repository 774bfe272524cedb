"""The chunks of an OpenAI-compatible stream, and how an answer is put together from them.

What comes in is foreign: here it is held against the little of the format that we use
(https://platform.openai.com/docs/api-reference/chat-streaming), cleaned of what can't be stored, and bounded.
"""

from __future__ import annotations

from typing import Annotated, Any
from uuid import uuid4

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from agent_runtime.llm.client import Answer, LLMError, ToolCall, Usage

MAX_CHARACTERS = 1_000_000
MAX_TOOL_CALLS = 128
MAX_NAME = 128
REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


def _clean(value: Any) -> Any:
    """A text without lone surrogates and NUL, which neither UTF-8 nor PostgreSQL take; anything else as it is."""
    if not isinstance(value, str) or (value.isascii() and "\0" not in value):
        return value
    return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace").replace("\0", REPLACEMENT)


Text = Annotated[str, BeforeValidator(_clean)]
Count = Annotated[int, Field(ge=0, lt=2**53)]


class _Part(BaseModel):
    model_config = ConfigDict(from_attributes=True, extra="ignore")


class _Function(_Part):
    name: Text | None = None
    arguments: Text | None = None


class _CallDelta(_Part):
    index: int | None = None
    id: Text | None = None
    function: _Function | None = None


class _Delta(_Part):
    content: Text | None = None
    refusal: Text | None = None
    tool_calls: list[_CallDelta] | None = None


class _Choice(_Part):
    index: int | None = None
    delta: _Delta | None = None
    finish_reason: Text | None = None


class _PromptDetails(_Part):
    cached_tokens: Count | None = None


class _Usage(_Part):
    prompt_tokens: Count | None = None
    completion_tokens: Count | None = None
    total_tokens: Count | None = None
    prompt_tokens_details: _PromptDetails | None = None


class _Chunk(_Part):
    choices: list[_Choice] | None
    usage: _Usage | None = None


class _Draft:
    """A tool call that is still growing."""

    __slots__ = ("arguments", "call_id", "name")

    def __init__(self) -> None:
        self.call_id = ""
        self.name = ""
        self.arguments: list[str] = []


class Assembly:
    """One answer that is being put together."""

    def __init__(self) -> None:
        self._text: list[str] = []
        self._calls: list[_Draft] = []
        self._at_index: dict[int, _Draft] = {}
        self._usage = Usage()
        self._finish_reason: str | None = None
        self._characters = 0

    def add(self, chunk: object) -> str:
        """Take in a chunk as the ``openai`` package gives it.

        Returns:
            The text that it adds to the answer, possibly empty.

        Raises:
            LLMError: bad_answer, if it is not a chunk, or the answer grows beyond all measure.
        """
        try:
            valid = _Chunk.model_validate(chunk)
        except ValidationError as error:
            where = ".".join(str(step) for step in error.errors()[0]["loc"]) or "its top"
            raise LLMError(
                "bad_answer", f"the model endpoint sent what is no chunk of an answer (at {where})"
            ) from None
        if valid.usage is not None:
            self._usage = _usage(valid.usage)
        text = "".join(self._add_choice(choice) for choice in valid.choices or () if not choice.index)
        self._text.append(text)
        self._count(text)
        return text

    def _add_choice(self, choice: _Choice) -> str:
        if choice.finish_reason:
            self._finish_reason = choice.finish_reason[:MAX_NAME]
        if choice.delta is None:
            return ""
        for call in choice.delta.tool_calls or ():
            self._add_call(call)
        return (choice.delta.content or "") + (choice.delta.refusal or "")

    def _add_call(self, delta: _CallDelta) -> None:
        index = delta.index or 0
        draft = self._at_index.get(index)
        # Some endpoints send every call under index 0 and tell them apart by their ids only.
        if draft is None or (delta.id and draft.call_id and delta.id != draft.call_id):
            if len(self._calls) == MAX_TOOL_CALLS:
                raise LLMError("bad_answer", f"the model asked for more than {MAX_TOOL_CALLS} tool calls at once")
            draft = self._at_index[index] = _Draft()
            self._calls.append(draft)
        draft.call_id = draft.call_id or delta.id or ""
        if delta.function is not None:
            draft.name = draft.name or delta.function.name or ""
            draft.arguments.append(delta.function.arguments or "")
            self._count(delta.function.arguments or "")

    def _count(self, text: str) -> None:
        self._characters += len(text)
        if self._characters > MAX_CHARACTERS:
            raise LLMError("bad_answer", f"the model's answer has more than {MAX_CHARACTERS} characters")

    def answer(self) -> Answer:
        """The answer, when the stream has ended.

        Raises:
            LLMError: bad_answer, if the stream ended before the answer did: half a tool call must not be run.
        """
        if self._finish_reason is None:
            raise LLMError("bad_answer", "the model's stream ended before its answer did", retryable=True)
        taken: set[str] = set()
        calls = tuple(_finished(draft, taken) for draft in self._calls)
        return Answer("".join(self._text), calls, self._usage, _printable(self._finish_reason))


def _finished(draft: _Draft, taken: set[str]) -> ToolCall:
    """The call, under a name and an id that events can hold; the id is a new one if it is missing or not unique."""
    call_id = draft.call_id
    if not call_id or len(call_id) > MAX_NAME or not call_id.isprintable() or call_id in taken:
        call_id = f"call_{uuid4().hex}"
    taken.add(call_id)
    return ToolCall(call_id, _printable(draft.name[:MAX_NAME]) or "unnamed", "".join(draft.arguments))


def _printable(name: str) -> str:
    """Cleaned so that a name that is none stays unknown instead of becoming another one."""
    return name if name.isprintable() else "".join(sign if sign.isprintable() else REPLACEMENT for sign in name)


def _usage(row: _Usage) -> Usage:
    prompt, completion = row.prompt_tokens or 0, row.completion_tokens or 0
    details = row.prompt_tokens_details
    return Usage(
        prompt_tokens=prompt,
        completion_tokens=completion,
        total_tokens=row.total_tokens or prompt + completion,
        cached_tokens=(details.cached_tokens or 0) if details is not None else 0,
    )
