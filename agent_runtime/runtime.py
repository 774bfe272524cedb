"""Runtime mode: the parts that run agents, put together. ``main`` adds them to the sidecar."""

from __future__ import annotations

import logging
from pathlib import Path

from agent_runtime.agents import ORCHESTRATOR, UNIVERSAL, AgentRouter
from agent_runtime.events.event_bus import EventBus
from agent_runtime.events.subscribers.agent_context_subscriber import AgentContextSubscriber
from agent_runtime.events.subscribers.domain_event_subscriber import DomainEventSubscriber
from agent_runtime.events.subscribers.persistence_subscriber import PersistenceSubscriber
from agent_runtime.events.subscribers.timer_writer import TimerWriter
from agent_runtime.hitl.manager import HITLManager
from agent_runtime.llm import LLMClient, LLMStreamService, ScriptedClient
from agent_runtime.orchestrator import MultiAgentOrchestrator, Services
from agent_runtime.sessions.context import AgentContextManager
from agent_runtime.sessions.database import Database
from agent_runtime.sessions.expiry import SessionExpiry
from agent_runtime.sessions.manager import SessionManager
from agent_runtime.sessions.service import CreateSessionHandler, SessionManagementService
from agent_runtime.settings import Settings
from agent_runtime.tools import ToolExecutor, Workspace, standard_tools

logger = logging.getLogger("agent_runtime")

SLOW_TIMER_SECONDS = 60.0
SCRIPTED_MODEL = "scripted"


class Runtime:
    """Sessions, agents, model, tools and people, over one bus.

    Attributes:
        sessions, contexts, hitl, orchestrator, create_session, router: what the API serves.

    Raises:
        ValueError: a setting names no endpoint, database or tool that can be used. OSError: the workspace can't be.
    """

    def __init__(self, settings: Settings, bus: EventBus) -> None:
        self._bus = bus
        self._database = Database(sessions_url(settings), synchronous=settings.sqlite_synchronous)
        self._client, model = _model(settings)
        settings.workspace.mkdir(parents=True, exist_ok=True)
        self._workspace = Workspace(settings.workspace)
        tools = ToolExecutor(bus, standard_tools(self._workspace))
        remote = frozenset(name.strip() for name in settings.remote_tools.split(",") if name.strip())
        if unknown := sorted(remote - set(tools.registry.names)):
            raise ValueError(f"AGENT_RUNTIME__REMOTE_TOOLS: there is no tool {', '.join(unknown)}")
        first = ORCHESTRATOR if settings.multi_agent_mode else UNIVERSAL
        self.router = AgentRouter()
        self.sessions = SessionManager(bus, self._database)
        self.contexts = AgentContextManager(bus, self._database, first_agent=first)
        self.hitl = HITLManager(bus, self._database, timeout_seconds=settings.approval_timeout_seconds)
        self.create_session = CreateSessionHandler(SessionManagementService(self.sessions, bus), bus)
        self.orchestrator = MultiAgentOrchestrator(
            Services(
                bus,
                self.sessions,
                self.contexts,
                LLMStreamService(bus, self._client),
                tools,
                self.hitl,
                self.router,
                model,
                remote,
                settings.multi_agent_mode,
            )
        )
        self._context_subscriber = AgentContextSubscriber(self.contexts)
        self._domain_subscriber = DomainEventSubscriber()
        self._by_events = PersistenceSubscriber(self.sessions.save_now, self.contexts.save_now)
        self._uses_events = settings.use_event_driven_persistence
        # Beside the events the timer still runs: a middleware may cancel the event that would have saved something.
        self._timer = TimerWriter(
            [(self.sessions.dirty, self.sessions.save_now), (self.contexts.dirty, self.contexts.save_now)],
            every_seconds=SLOW_TIMER_SECONDS if self._uses_events else 5.0,
        )
        self._expiry = SessionExpiry(bus, self.sessions, settings.session_idle_seconds, busy=self._is_waiting)

    async def _is_waiting(self, session_id: str) -> bool:
        return bool(await self.hitl.pending(session_id))

    async def start(self) -> None:
        """Migrate the database, follow the bus, and take up what a restart left."""
        await self._database.migrate()
        self._context_subscriber.attach(self._bus)
        self._domain_subscriber.attach(self._bus)
        if self._uses_events:
            self._by_events.attach(self._bus)
            self._by_events.start()
        self._timer.start()
        await self.router.register(self._bus)
        await self.hitl.start()
        await self.orchestrator.recover()
        self._expiry.start()

    async def stop_turns(self) -> None:
        """End what runs: streams get their last chunk, and what was cut is recorded."""
        await self.orchestrator.stop()
        await self.hitl.stop()
        await self._expiry.stop()

    async def stop(self) -> None:
        """Save everything and let go; after ``stop_turns`` and after the bus is drained."""
        if self._uses_events:
            await self._by_events.stop()
        await self._timer.stop()
        await self._client.aclose()
        await self._database.close()
        self._workspace.close()


def sessions_url(settings: Settings) -> str:
    """Where sessions are kept: as set, else beside the events, in a file of their own: the store's has one writer."""
    if settings.sessions_db_url is not None:
        return settings.sessions_db_url
    if not settings.db_url.startswith("sqlite:///"):
        return "memory://"
    events = Path(settings.db_url.removeprefix("sqlite:///"))
    return f"sqlite:///{events.with_name(events.stem + '-sessions' + (events.suffix or '.db'))}"


def _model(settings: Settings) -> tuple[LLMClient, str]:
    if settings.llm_proxy_url is None:
        logger.warning("no AGENT_RUNTIME__LLM_PROXY_URL is set: a scripted model plays, its answers mean nothing")
        return ScriptedClient(), SCRIPTED_MODEL
    from agent_runtime.llm.openai_client import OpenAIClient

    key = settings.llm_api_key.get_secret_value() if settings.llm_api_key is not None else ""
    client = OpenAIClient(settings.llm_proxy_url, key, timeout_seconds=settings.llm_timeout_seconds)
    return client, settings.llm_model
