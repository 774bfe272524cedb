"""What a model is to the rest of the runtime, whoever provides it.

Messages and tools are plain dicts in the format of OpenAI's chat completions
(https://platform.openai.com/docs/api-reference/chat), which the other providers have taken over.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

Message = dict[str, Any]


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call that the model asks for. ``arguments`` is JSON as the model wrote it, so it may be none."""

    call_id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Usage:
    """What a call took, in tokens; all 0 where the provider does not tell. ``cached_tokens`` are part of
    ``prompt_tokens``."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    total_tokens: int = 0
    cached_tokens: int = 0


@dataclass(frozen=True, slots=True)
class TextDelta:
    """The next piece of the answer's text."""

    text: str


@dataclass(frozen=True, slots=True)
class Answer:
    """The whole answer, the last item of every stream. ``text`` is all of its deltas."""

    text: str
    tool_calls: tuple[ToolCall, ...]
    usage: Usage
    finish_reason: str | None


class LLMError(Exception):
    """A call of a model failed.

    Args:
        error_type: a short class of errors, fit for a label: timeout, connection, rate_limit, server_error,
            bad_request, auth, bad_answer.
        message: what to tell a person; holds no key and no text of the conversation.
        retryable: whether the same call may well succeed later.
        retry_after: seconds that the provider asks to wait before that, if it says so.
    """

    def __init__(
        self, error_type: str, message: str, *, retryable: bool = False, retry_after: float | None = None
    ) -> None:
        self.error_type = error_type
        self.retryable = retryable
        self.retry_after = retry_after
        super().__init__(message)


class LLMClient(Protocol):
    """A provider of models.

    Attributes:
        provider: its name in events, such as ``openai``.
    """

    provider: str

    def stream(
        self, *, model: str, messages: Sequence[Message], tools: Sequence[Message]
    ) -> AsyncGenerator[TextDelta | Answer, None]:
        """Call ``model`` once.

        Args:
            model: the provider's name of it.
            messages: the conversation, oldest first.
            tools: schemas of the functions that the model may ask for; may be empty.

        Returns:
            Its deltas as they come, then its ``Answer``. The first item comes with the provider's first chunk; its text
            is empty if that chunk brings none. Whoever leaves early closes the generator, and with it the connection.

        Raises:
            LLMError: while it is iterated, at any point before the ``Answer``.
        """

    async def aclose(self) -> None:
        """Let go of connections; the client can't be used after it."""
