"""The stream of a model with its events around it: what the runtime calls a model through."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from time import perf_counter_ns

from agent_runtime.events.base_event import BaseEvent, Common
from agent_runtime.events.correlation import EventCorrelation
from agent_runtime.events.errors import EventsError
from agent_runtime.events.event_bus import EventBus
from agent_runtime.events.llm_events import LLMRequestCompletedEvent, LLMRequestFailedEvent, LLMRequestStartedEvent
from agent_runtime.llm.client import Answer, LLMClient, LLMError, Message, TextDelta

logger = logging.getLogger(__name__)

SOURCE = "llm"


class LLMStreamService:
    """Calls a model and publishes llm_request_started, and then exactly one of llm_request_completed and
    llm_request_failed, however the call ends."""

    def __init__(self, bus: EventBus, client: LLMClient) -> None:
        self._bus = bus
        self._client = client
        self._publishing: set[asyncio.Task[None]] = set()

    async def stream(
        self,
        *,
        session_id: str,
        agent: str | None,
        model: str,
        messages: Sequence[Message],
        tools: Sequence[Message],
    ) -> AsyncGenerator[TextDelta | Answer, None]:
        """The client's stream, with the arguments of ``LLMClient.stream``. Close it: ``contextlib.aclosing``.

        The start is caused by the current cause, the end by the start. After it the current cause is the end, for a
        consumer that iterates in its own task. The end is published before the ``Answer`` is handed out; a consumer
        that leaves before that, or is cancelled, ends the call with llm_request_failed, ``error_type`` cancelled.

        Raises:
            LLMError: the call failed.
        """
        call = _Call(session_id, agent, model, self._client.provider, len(messages), len(tools))
        await self._bus.publish(call.started)
        answer: Answer | None = None
        try:
            async with aclosing(self._client.stream(model=model, messages=messages, tools=tools)) as items:
                async for item in items:
                    call.note_first_chunk()
                    if isinstance(item, Answer):
                        answer = item
                        break
                    if item.text:
                        yield item
            if answer is None:
                raise LLMError("bad_answer", "the model's stream ended without an answer")
        except BaseException as error:
            await self._end(call.failed(error))
            raise
        await self._end(call.completed(answer))
        yield answer

    async def _end(self, event: BaseEvent) -> None:
        """Publish the end of a call; in a task of its own, as the consumer's may be about to be cancelled again."""
        EventCorrelation.set_causation_id(event.event_id)
        task = asyncio.get_running_loop().create_task(self._publish(event))
        self._publishing.add(task)
        task.add_done_callback(self._publishing.discard)
        await asyncio.shield(task)

    async def _publish(self, event: BaseEvent) -> None:
        try:
            await self._bus.publish(event)
        except EventsError:
            # What the caller has to hear of is how the call ended, not that nobody can be told.
            logger.warning(
                "%s of request %s was not published", event.event_type, event.data["request_id"], exc_info=True
            )


class _Call:
    """One call of a model: its clock, and its events. Their ids are fixed at the start, because a generator that nobody
    closes is finished in a context that is not its own."""

    def __init__(
        self, session_id: str, agent: str | None, model: str, provider: str, messages_count: int, tools_count: int
    ) -> None:
        self._model = model
        self._agent = agent
        self.started = LLMRequestStartedEvent(
            model=model,
            messages_count=messages_count,
            tools_count=tools_count,
            provider=provider,
            agent=agent,
            session_id=session_id,
            source=SOURCE,
        )
        self._request_id: str = self.started.data["request_id"]
        self._begun = perf_counter_ns()
        self._first_chunk_ms: float | None = None

    def note_first_chunk(self) -> None:
        """Take the time of the first chunk; later calls change nothing."""
        if self._first_chunk_ms is None:
            self._first_chunk_ms = self._elapsed_ms()

    def completed(self, answer: Answer) -> BaseEvent:
        """The end of a call that was answered."""
        return LLMRequestCompletedEvent(
            model=self._model,
            duration_ms=self._elapsed_ms(),
            prompt_tokens=answer.usage.prompt_tokens,
            completion_tokens=answer.usage.completion_tokens,
            total_tokens=answer.usage.total_tokens,
            has_tool_calls=bool(answer.tool_calls),
            request_id=self._request_id,
            time_to_first_chunk_ms=self._first_chunk_ms,
            finish_reason=answer.finish_reason or None,
            cached_tokens=answer.usage.cached_tokens,
            agent=self._agent,
            **self._common(),
        )

    def failed(self, error: BaseException) -> BaseEvent:
        """The end of a call that was not."""
        error_type, message = _described(error)
        return LLMRequestFailedEvent(
            model=self._model,
            error=message,
            error_type=error_type,
            duration_ms=self._elapsed_ms(),
            request_id=self._request_id,
            agent=self._agent,
            **self._common(),
        )

    def _common(self) -> Common:
        return {
            "session_id": self.started.session_id,
            "correlation_id": self.started.correlation_id,
            "causation_id": self.started.event_id,
            "source": SOURCE,
        }

    def _elapsed_ms(self) -> float:
        return (perf_counter_ns() - self._begun) // 1_000 / 1_000


def _described(error: BaseException) -> tuple[str, str]:
    """error_type and message of what ended a call early."""
    if isinstance(error, LLMError):
        return error.error_type, str(error)
    if isinstance(error, asyncio.CancelledError | GeneratorExit):
        return "cancelled", "whoever asked has left before the end of the answer"
    # Its message is not ours, so nobody knows what is in it.
    return "internal", f"{type(error).__name__} while the model was called"
