"""Any endpoint that speaks OpenAI's chat completions: OpenAI itself, a proxy such as LiteLLM, vLLM, Ollama."""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import httpx2
import openai
from openai.types.chat import ChatCompletionChunk

from agent_runtime.llm.chunks import Assembly
from agent_runtime.llm.client import Answer, LLMError, Message, TextDelta
from agent_runtime.llm.endpoint import check_endpoint, check_peer

LONGEST_BACKOFF_SECONDS = 8.0
# What an endpoint says about an error may quote the key or the conversation; a code of this shape can't.
_CODE = re.compile(r"[a-z]+(?:_[a-z]+)*")


class OpenAIClient:
    """Calls an OpenAI-compatible endpoint.

    A call is tried again, with growing pauses, if the endpoint answers 429 or 5xx or can't be connected to; never after
    the first chunk, and never for any other status. Redirects are not followed.

    Args:
        base_url: where ``/chat/completions`` is, such as ``https://api.openai.com/v1``; see ``endpoint``.
        api_key: may be empty for an endpoint that wants none.
        timeout_seconds: longest that a call may take, all of its tries and chunks together.
        connect_seconds: longest wait for a connection.
        read_seconds: longest silence, before the first chunk or between two.
        max_retries: how often a call is tried again.
        backoff_seconds: the first pause; it doubles, up to 8 s.
        max_retry_after_seconds: a longer wait than this, asked for by the endpoint, fails the call instead.
        provider: its name in events.

    Raises:
        EndpointRefused: no model may be called at ``base_url``.
    """

    def __init__(
        self,
        base_url: str,
        api_key: str = "",
        *,
        timeout_seconds: float = 300.0,
        connect_seconds: float = 10.0,
        read_seconds: float = 60.0,
        max_retries: int = 2,
        backoff_seconds: float = 0.5,
        max_retry_after_seconds: float = 30.0,
        provider: str = "openai",
    ) -> None:
        self.provider = provider
        self._timeout_seconds = timeout_seconds
        self._max_retries = max_retries
        self._backoff_seconds = backoff_seconds
        self._max_retry_after_seconds = max_retry_after_seconds
        limits = httpx2.Timeout(read_seconds, connect=connect_seconds, pool=connect_seconds)
        self._client = openai.AsyncOpenAI(
            base_url=check_endpoint(base_url),
            api_key=api_key or "none",
            timeout=limits,
            # Its own retries go by more statuses than ours and by a header that may ask to repeat a 400.
            max_retries=0,
            http_client=openai.DefaultAsyncHttpxClient(
                timeout=limits, follow_redirects=False, event_hooks={"request": [_guard]}
            ),
        )

    async def stream(
        self, *, model: str, messages: Sequence[Message], tools: Sequence[Message]
    ) -> AsyncGenerator[TextDelta | Answer, None]:
        """See ``LLMClient.stream``."""
        deadline = asyncio.get_running_loop().time() + self._timeout_seconds
        request: dict[str, Any] = {"model": model, "messages": list(messages)}
        if tools:
            request["tools"] = list(tools)
        chunks, chunk = await self._open(request, deadline)
        assembly = Assembly()
        async with chunks:
            yield TextDelta(assembly.add(chunk))
            while (following := await self._next(chunks, deadline)) is not None:
                if text := assembly.add(following):
                    yield TextDelta(text)
        yield assembly.answer()

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.close()

    async def _open(
        self, request: dict[str, Any], deadline: float
    ) -> tuple[openai.AsyncStream[ChatCompletionChunk], ChatCompletionChunk]:
        """The stream and its first chunk, after as many tries as it takes."""
        for attempt in range(self._max_retries + 1):
            try:
                with self._llm_errors():
                    async with asyncio.timeout_at(deadline):
                        return await self._begin(request)
            except LLMError as error:
                pause = self._pause(attempt, error)
                if pause is None or pause > deadline - asyncio.get_running_loop().time():
                    raise
            await asyncio.sleep(pause)
        raise AssertionError("the last try returns or raises")

    async def _begin(
        self, request: dict[str, Any]
    ) -> tuple[openai.AsyncStream[ChatCompletionChunk], ChatCompletionChunk]:
        chunks = await self._client.chat.completions.create(
            **request, stream=True, stream_options={"include_usage": True}
        )
        try:
            return chunks, await anext(chunks)
        except StopAsyncIteration:
            raise LLMError("bad_answer", "the model endpoint answered with an empty stream") from None
        except BaseException:
            await chunks.close()
            raise

    async def _next(
        self, chunks: openai.AsyncStream[ChatCompletionChunk], deadline: float
    ) -> ChatCompletionChunk | None:
        # The limit stands around each wait, not around the loop: it must never strike while the consumer has control.
        with self._llm_errors():
            async with asyncio.timeout_at(deadline):
                return await anext(chunks, None)

    def _pause(self, attempt: int, error: LLMError) -> float | None:
        """Seconds to wait before the next try; None if there is none."""
        if not error.retryable or attempt == self._max_retries:
            return None
        if error.retry_after is not None:
            return error.retry_after if error.retry_after <= self._max_retry_after_seconds else None
        return min(LONGEST_BACKOFF_SECONDS, self._backoff_seconds * 2.0**attempt) * random.uniform(0.75, 1.0)

    @contextmanager
    def _llm_errors(self) -> Iterator[None]:
        """Whatever the package and the network raise, as an ``LLMError``; the original may hold secrets."""
        try:
            yield
        except TimeoutError:
            raise LLMError(
                "timeout", f"the model took longer than {self._timeout_seconds:g} s", retryable=True
            ) from None
        except openai.APIStatusError as error:
            raise _status_error(error) from None
        except (openai.APIError, httpx2.HTTPError) as error:
            raise _transport_error(error) from None
        except (ValueError, RecursionError):
            raise LLMError("bad_answer", "the model endpoint sent what is no JSON") from None


async def _guard(request: httpx2.Request) -> None:
    request.extensions = {**request.extensions, "trace": check_peer}


def _status_error(error: openai.APIStatusError) -> LLMError:
    status = error.status_code
    code = error.code or error.type
    known = f" ({code})" if isinstance(code, str) and len(code) <= 64 and _CODE.fullmatch(code) else ""
    said = f"the model endpoint answered {status}{known}"
    if status == 429:
        return LLMError("rate_limit", said, retryable=True, retry_after=_retry_after(error.response))
    if status >= 500:
        return LLMError("server_error", said, retryable=True, retry_after=_retry_after(error.response))
    if status in (401, 403):
        return LLMError("auth", said)
    if status < 400:
        return LLMError("bad_answer", f"{said}, a redirect, which is not followed")
    return LLMError("bad_request", said)


def _transport_error(error: openai.APIError | httpx2.HTTPError) -> LLMError:
    """An error without a status. The package chains what it wraps, and only that tells one timeout from another."""
    cause = error.__cause__ if isinstance(error, openai.APIConnectionError) else error
    if isinstance(cause, httpx2.ConnectTimeout | httpx2.PoolTimeout):
        return LLMError("connection", "the model endpoint could not be connected to in time", retryable=True)
    if isinstance(cause, httpx2.TimeoutException):
        return LLMError("timeout", "the model endpoint was silent for too long")
    if isinstance(cause, httpx2.ConnectError):
        return LLMError("connection", "the model endpoint can't be connected to", retryable=True)
    if isinstance(cause, httpx2.TransportError):
        return LLMError("connection", "the connection to the model endpoint was lost", retryable=True)
    if isinstance(error, openai.APIError):
        return LLMError("server_error", "the model endpoint reported an error within its answer")
    return LLMError("bad_answer", "the model endpoint's answer can't be read")


def _retry_after(response: httpx2.Response) -> float | None:
    """Seconds, from either form of the header (RFC 9110, 10.2.3); None if it is missing or unreadable."""
    value = response.headers.get("retry-after", "")
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):
        return None
