"""Sessions in the words of the business: what is saved first and told afterwards, as domain events.

bus ◀── SessionCreated, MessageReceived ── SessionManagementService ── save ──▶ SessionManager, or any repository
bus ◀── SessionCreatedEvent ── CreateSessionHandler ──▶ SessionManagementService
bus ◀── MessageAddedEvent ── ReceiveMessageHandler ──▶ SessionManagementService
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

from agent_runtime.events.domain_events import MessageReceived, SessionCreated
from agent_runtime.events.event_bus import EventBus, event_bus
from agent_runtime.events.session_events import MessageAddedEvent, SessionCreatedEvent
from agent_runtime.sessions.errors import UnknownSession
from agent_runtime.sessions.session import Message, Session

SOURCE = "sessions"


class Repository(Protocol):
    """Where sessions are kept."""

    async def save(self, session: Session) -> Any:
        """Make a new session, or what is new in one, durable."""

    async def find_by_id(self, session_id: str) -> Session | None:
        """The session of that id, or None."""


class SessionManagementService:
    """Begins sessions and takes messages in; publishes a domain event once the save has succeeded, and nothing else.

    Args:
        repository: where sessions are kept; in the runtime its ``SessionManager``.
        bus: where the domain events go.
    """

    def __init__(self, repository: Repository, bus: EventBus = event_bus) -> None:
        self._repository = repository
        self._bus = bus

    async def create_session(
        self,
        session_id: str,
        *,
        system_prompt: str = "",
        created_by: str = "system",
        details: dict[str, Any] | None = None,
    ) -> Session:
        """Begin a session, and publish ``SessionCreated``.

        Raises:
            InvalidSession: something about it can't be kept. SessionExists. DatabaseUnavailable: nothing is published.
        """
        session = Session(session_id, system_prompt, created_by, details or {})
        await self._repository.save(session)
        await self._bus.publish(SessionCreated(aggregate_id=session_id, session_id=session_id, created_by=created_by))
        return session

    async def add_message(self, session_id: str, message: dict[str, Any], agent: str | None = None) -> Message:
        """Take a message in, durably, and publish ``MessageReceived``.

        Args:
            message: in the OpenAI chat format.
            agent: who wrote it, where an agent did.

        Raises:
            UnknownSession, SessionEnded, InvalidSession. DatabaseUnavailable: nothing is published; the message is in
            the session nevertheless, and is saved with the next that is.
        """
        session = await self._repository.find_by_id(session_id)
        if session is None:
            raise UnknownSession(session_id)
        added = session.add_message(message, agent)
        await self._repository.save(session)
        await self._bus.publish(
            MessageReceived(
                aggregate_id=session_id,
                session_id=session_id,
                message_id=added.message_id,
                message_content=added.content,
                message_length=len(added.content),
                role=added.role,
            )
        )
        return added


@dataclass(frozen=True, slots=True)
class CreateSessionCommand:
    """Begin a session, please. The arguments are those of ``SessionManagementService.create_session``."""

    session_id: str
    system_prompt: str = ""
    created_by: str = "user"
    details: dict[str, Any] = field(default_factory=dict)


class CreateSessionHandler:
    """Obeys ``CreateSessionCommand``; the domain event of the service is followed by the technical one.

    Args:
        service: begins the session.
        bus: where the technical event goes.
    """

    def __init__(self, service: SessionManagementService, bus: EventBus = event_bus) -> None:
        self._service = service
        self._bus = bus

    async def handle(self, command: CreateSessionCommand) -> Session:
        """Begin the session. Raises: as ``SessionManagementService.create_session``."""
        session = await self._service.create_session(
            command.session_id,
            system_prompt=command.system_prompt,
            created_by=command.created_by,
            details=command.details,
        )
        await self._bus.publish(
            SessionCreatedEvent(session_id=session.id, system_prompt=command.system_prompt, source=SOURCE)
        )
        return session


@dataclass(frozen=True, slots=True)
class ReceiveMessageCommand:
    """Take a message in, please. The arguments are those of ``SessionManagementService.add_message``."""

    session_id: str
    message: dict[str, Any]
    agent: str | None = None


class ReceiveMessageHandler:
    """Obeys ``ReceiveMessageCommand``; the domain event of the service is followed by the technical one.

    Args:
        service: takes the message in.
        bus: where the technical event goes.
    """

    def __init__(self, service: SessionManagementService, bus: EventBus = event_bus) -> None:
        self._service = service
        self._bus = bus

    async def handle(self, command: ReceiveMessageCommand) -> Message:
        """Take the message in. Raises: as ``SessionManagementService.add_message``."""
        added = await self._service.add_message(command.session_id, command.message, command.agent)
        await self._bus.publish(
            MessageAddedEvent(
                session_id=command.session_id,
                role=added.role,
                content_length=len(added.content),
                agent_name=added.agent,
                source=SOURCE,
            )
        )
        return added
