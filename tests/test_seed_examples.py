"""The client's documents: each Python example they print, with ``app.`` replaced by ``agent_runtime.``, runs.

The documents are called S0 to S4, in the order of their numbers. Where one prints a fragment, it stands in the smallest
program around it, with values in place of its ellipses. Their examples about Redis, PostgreSQL and the runtime's own
services come with those.
"""

import logging
import uuid
from collections.abc import AsyncIterator
from datetime import datetime
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, Counter

from agent_runtime.events import subscribers
from agent_runtime.events.agent_events import (
    AgentErrorOccurredEvent,
    AgentProcessingCompletedEvent,
    AgentProcessingStartedEvent,
    AgentRegisteredEvent,
    AgentSwitchedEvent,
)
from agent_runtime.events.base_event import BaseEvent
from agent_runtime.events.correlation import NO_CONTEXT, EventCorrelation, current
from agent_runtime.events.domain_events import (
    AgentAssigned,
    AgentSwitchRequested,
    ConversationCompleted,
    DomainEvent,
    MessageReceived,
    SessionCreated,
    SessionExpired,
    TaskCompleted,
)
from agent_runtime.events.error_handling import EventHandlerWithRetry
from agent_runtime.events.errors import InvalidEvent
from agent_runtime.events.event_bus import event_bus
from agent_runtime.events.event_types import EventCategory, EventType
from agent_runtime.events.llm_events import LLMRequestCompletedEvent, LLMRequestStartedEvent
from agent_runtime.events.parsing import parse_event
from agent_runtime.events.session_events import MessageAddedEvent, SessionCreatedEvent, SessionUpdatedEvent
from agent_runtime.events.system_events import DatabaseQueryExecutedEvent
from agent_runtime.events.tool_events import (
    HITLDecisionMadeEvent,
    ToolApprovalRequiredEvent,
    ToolExecutionCompletedEvent,
    ToolExecutionFailedEvent,
    ToolExecutionRequestedEvent,
    ToolExecutionStartedEvent,
)

logger = logging.getLogger("example")


@pytest.fixture(autouse=True)
async def as_in_a_new_script() -> AsyncIterator[None]:
    """Each example finds the default bus without subscribers, and default instances that were not used yet."""
    for name in ("audit_logger", "metrics_collector", "session_metrics_collector"):
        vars(subscribers).pop(name, None)
    context = current.set(NO_CONTEXT)
    await event_bus.clear()
    yield
    await event_bus.clear()
    current.reset(context)


def switched(session_id: str = "session-123", **more: Any) -> AgentSwitchedEvent:
    """The switch that the documents speak of."""
    return AgentSwitchedEvent(
        session_id=session_id, from_agent="orchestrator", to_agent="coder", reason="Требуется модификация кода", **more
    )


async def publish(*events: BaseEvent) -> None:
    """Publish ``events``, and wait until they were handled."""
    for event in events:
        await event_bus.publish(event)
    assert await event_bus.drain()


# -- S0 ----------------------------------------------------------------------------------------------------


async def test_s0_metrics() -> None:
    """S0, 1: all metrics, and single ones."""
    from agent_runtime.events.subscribers import metrics_collector

    await publish(
        *(switched() for _ in range(15)),
        *(
            AgentProcessingCompletedEvent(agent_type="coder", duration_ms=1500.5, success=done)
            for done in (True,) * 18 + (False,) * 2
        ),
        *(
            ToolExecutionRequestedEvent(tool_name="write_file", arguments={}, call_id=str(n), agent="coder")
            for n in range(15)
        ),
        *(
            ToolExecutionCompletedEvent(tool_name="write_file", call_id=str(n), duration_ms=1, result_length=1)
            for n in range(14)
        ),
        ToolExecutionFailedEvent(tool_name="write_file", call_id="14", error_message="m", error_type="OSError"),
        *(
            HITLDecisionMadeEvent(call_id=str(n), decision="APPROVE", tool_name="write_file", original_args={})
            for n in range(7)
        ),
        AgentErrorOccurredEvent(agent_type="coder", error_message="m", error_type="FileNotFoundError"),
    )

    # Все метрики
    metrics = metrics_collector.get_metrics()

    # Структура:
    assert metrics == {
        "agent_switches": {"orchestrator_to_coder": 15},
        "agent_processing": {
            "coder": {"count": 20, "total_duration_ms": 30010.0, "success_count": 18, "failure_count": 2}
        },
        "tool_executions": {"write_file": {"requested": 15, "completed": 14, "failed": 1, "requires_approval": 0}},
        "hitl_decisions": {"write_file": {"APPROVE": 7, "EDIT": 0, "REJECT": 0}},
        "errors": {"coder": {"FileNotFoundError": 1}},
    }

    # Конкретные метрики
    avg_duration = metrics_collector.get_agent_avg_duration("coder")
    success_rate = metrics_collector.get_tool_success_rate("write_file")
    switch_count = metrics_collector.get_agent_switch_count("orchestrator", "coder")

    assert (avg_duration, round(success_rate, 3), switch_count) == (1500.5, 0.933, 15)


async def test_s0_audit_log() -> None:
    """S0, 2: the rows of a session, of a type, and the last ten."""
    from agent_runtime.events.subscribers import audit_logger

    await publish(*(switched(f"session-{n}") for n in (123, 124)), *(switched() for _ in range(12)))

    # Все логи сессии
    log = audit_logger.get_audit_log(session_id="session-123")

    # Фильтрация по типу события
    switches = audit_logger.get_audit_log(event_type="agent_switched")

    # Последние 10 событий
    recent = audit_logger.get_audit_log(session_id="session-123", limit=10)

    assert (len(log), len(switches), recent) == (13, 14, log[-10:])


async def test_s0_statistics(capsys: pytest.CaptureFixture[str]) -> None:
    """S0, 3 and S2, monitoring: the bus's statistics."""
    before = event_bus.get_stats()
    event_bus.subscribe(handler=lambda event: None)
    event_bus.subscribe(handler=lambda event: 1 / 0)
    await publish(switched())

    stats = event_bus.get_stats()
    print(f"Published: {stats.total_published}")
    print(f"Success: {stats.successful_handlers}")
    print(f"Failed: {stats.failed_handlers}")

    assert capsys.readouterr().out.splitlines() == [
        f"Published: {before.total_published + 1}",
        f"Success: {before.successful_handlers + 1}",
        f"Failed: {before.failed_handlers + 1}",
    ]
    assert stats.last_event_time is not None and stats.last_event_time.tzinfo is not None


async def test_s0_subscription(capsys: pytest.CaptureFixture[str]) -> None:
    """S0, 4: a handler of one's own."""

    # Новый подписчик
    @event_bus.subscribe(event_type=EventType.AGENT_SWITCHED, priority=5)
    async def my_handler(event: Any) -> None:
        print(f"Agent switched: {event.data['from_agent']} -> {event.data['to_agent']}")

    await publish(switched())
    assert capsys.readouterr().out == "Agent switched: orchestrator -> coder\n"


async def test_s0_a_method_decorated_in_the_body_of_its_class_harms_nobody() -> None:
    """S0, improvements 1 and 2: the sketches subscribe functions that still want a ``self``; the bus carries on."""

    class PersistenceSubscriber:
        @event_bus.subscribe(event_type=EventType.SESSION_UPDATED)
        async def _on_session_updated(self, event: Any) -> None:
            # Trigger persist по событию вместо таймера
            await self._schedule_persist(event.session_id)

        async def _schedule_persist(self, session_id: str) -> None:
            persisted.append(session_id)

    agent_switches = Counter("agent_switches", "Switches", ["to"], registry=CollectorRegistry())

    class PrometheusCollector:
        @event_bus.subscribe(event_category=EventCategory.AGENT)
        async def _collect(self, event: Any) -> None:
            # Экспорт в Prometheus
            agent_switches.labels(event.data["to_agent"]).inc()

    persisted: list[str] = []
    failed = event_bus.get_stats().failed_handlers
    await publish(SessionUpdatedEvent(session_id="session-123", update_type="title"), switched())
    assert event_bus.get_stats().failed_handlers == failed + 2
    await PersistenceSubscriber()._on_session_updated(SessionUpdatedEvent(session_id="s", update_type="title"))
    await PrometheusCollector()._collect(switched())
    assert (persisted, agent_switches.labels("coder")._value.get()) == (["s"], 1)


async def test_s0_a_new_subscriber_class() -> None:
    """S0, adding a subscriber: a class that subscribes a bound method of its own."""
    seen: list[Any] = []

    class MySubscriber:
        def __init__(self) -> None:
            event_bus.subscribe(event_type=EventType.AGENT_SWITCHED, handler=self._on_agent_switched, priority=5)

        async def _on_agent_switched(self, event: Any) -> None:
            # Ваша логика
            seen.append(event)

    # Инициализация в main.py
    my_subscriber = MySubscriber()

    event = switched()
    await publish(event)
    assert seen == [event] and my_subscriber is not None


# -- S1 ----------------------------------------------------------------------------------------------------


async def test_s1_an_agent_publishes_its_own_processing() -> None:
    """S1, 8: around an agent's work."""

    async def process(session_id: str, message: str) -> None:
        # Публиковать события начала/завершения
        await event_bus.publish(AgentProcessingStartedEvent(session_id=session_id, agent_type="coder", message=message))
        # Обработка...
        await event_bus.publish(
            AgentProcessingCompletedEvent(session_id=session_id, agent_type="coder", duration_ms=1.0, success=True)
        )

    with event_bus.capture_events() as events:
        await process("session-1", "Привет")
    assert [(event.event_type, event.data["agent"]) for event in events] == [
        ("agent_processing_started", "coder"),
        ("agent_processing_completed", "coder"),
    ]


async def test_s1_the_tool_registry_publishes_around_local_tools() -> None:
    """S1, 9: started, then completed or failed."""

    async def execute_local_tool(name: str, call_id: str, tool_func: Any) -> str:
        # Публиковать события выполнения
        await event_bus.publish(ToolExecutionStartedEvent(tool_name=name, call_id=call_id))
        try:
            result: str = await tool_func()
            await event_bus.publish(
                ToolExecutionCompletedEvent(tool_name=name, call_id=call_id, duration_ms=1.5, result_length=len(result))
            )
            return result
        except Exception as error:
            await event_bus.publish(
                ToolExecutionFailedEvent(
                    tool_name=name, call_id=call_id, error_message=str(error), error_type=type(error).__name__
                )
            )
            raise

    async def echo() -> str:
        return "hello"

    async def broken() -> str:
        raise OSError("no")

    with event_bus.capture_events() as events:
        assert await execute_local_tool("echo", "call-1", echo) == "hello"
        with pytest.raises(OSError, match="no"):
            await execute_local_tool("broken", "call-2", broken)
    assert [event.event_type.removeprefix("tool_execution_") for event in events] == [
        "started",
        "completed",
        "started",
        "failed",
    ]


async def test_s1_database_llm_client_and_router_publish() -> None:
    """S1, 10 to 12: the events of the components below the services."""
    model, session_id, duration = "gpt-4o", "session-1", 12.5
    with event_bus.capture_events() as events:
        await event_bus.publish(DatabaseQueryExecutedEvent(operation="save_session", session_id=session_id))
        await event_bus.publish(LLMRequestStartedEvent(model=model))
        await event_bus.publish(LLMRequestCompletedEvent(model=model, duration_ms=duration))
        await event_bus.publish(AgentRegisteredEvent(agent_type="coder"))
    assert [event.event_type for event in events] == [
        "database_query_executed",
        "llm_request_started",
        "llm_request_completed",
        "agent_registered",
    ]


# -- S2 ----------------------------------------------------------------------------------------------------


async def test_s2_event_bus(capsys: pytest.CaptureFixture[str]) -> None:
    """S2, event bus: by type, by category, and a publish."""

    # Подписка на конкретный тип события
    @event_bus.subscribe(event_type=EventType.AGENT_SWITCHED)
    async def on_agent_switched(event: Any) -> None:
        print(f"Агент переключен: {event.data}")

    # Подписка на категорию событий
    @event_bus.subscribe(event_category=EventCategory.AGENT)
    async def on_any_agent_event(event: Any) -> None:
        print(f"Событие агента: {event.event_type}")

    # Публикация события
    await event_bus.publish(
        AgentSwitchedEvent(
            session_id="session-123",
            from_agent="orchestrator",
            to_agent="coder",
            reason="Требуется модификация кода",
        )
    )
    assert await event_bus.drain()
    data = {
        "from_agent": "orchestrator",
        "to_agent": "coder",
        "reason": "Требуется модификация кода",
        "confidence": None,
    }
    assert sorted(capsys.readouterr().out.splitlines()) == [
        f"Агент переключен: {data}",
        "Событие агента: agent_switched",
    ]


def test_s2_the_structure_of_an_event() -> None:
    """S2, base event: an event has these ten keys, and is built from them."""
    structure = {
        "event_id": str(uuid.uuid4()),
        "event_type": "agent_switched",
        "event_category": "agent",
        "timestamp": "2026-01-21T10:00:00Z",
        "session_id": "session-123",
        "correlation_id": "corr-456",
        "causation_id": "event-789",
        "data": {"from_agent": "orchestrator", "to_agent": "coder"},
        "source": "multi_agent_orchestrator",
        "version": "1.0",
    }
    assert parse_event(structure).to_dict() == {**structure, "timestamp": "2026-01-21T10:00:00.000000Z"}


EXAMPLES: list[tuple[BaseEvent, dict[str, Any]]] = [
    (
        AgentSwitchedEvent(
            session_id="session-123",
            from_agent="orchestrator",
            to_agent="coder",
            reason="Требуется написание кода",
            confidence="high",
        ),
        {
            "from_agent": "orchestrator",
            "to_agent": "coder",
            "reason": "Требуется написание кода",
            "confidence": "high",
        },
    ),
    (
        AgentProcessingStartedEvent(session_id="session-123", agent_type="coder", message="Создай функцию сортировки"),
        {"agent": "coder", "message_length": 25},
    ),
    (
        AgentProcessingCompletedEvent(session_id="session-123", agent_type="coder", duration_ms=1500.5, success=True),
        {"agent": "coder", "duration_ms": 1500.5, "success": True},
    ),
    (
        AgentErrorOccurredEvent(
            session_id="session-123",
            agent_type="coder",
            error_message="File not found",
            error_type="FileNotFoundError",
        ),
        {"agent": "coder", "error_message": "File not found", "error_type": "FileNotFoundError"},
    ),
    (
        ToolExecutionRequestedEvent(
            session_id="session-123",
            tool_name="write_file",
            arguments={"path": "test.py", "content": "..."},
            call_id="call-456",
            agent="coder",
        ),
        {
            "tool_name": "write_file",
            "arguments": {"path": "test.py", "content": "..."},
            "call_id": "call-456",
            "agent": "coder",
        },
    ),
    (
        ToolApprovalRequiredEvent(
            session_id="session-123",
            tool_name="execute_command",
            arguments={"command": "rm -rf /tmp"},
            call_id="call-456",
            reason="Опасная команда",
        ),
        {
            "tool_name": "execute_command",
            "arguments": {"command": "rm -rf /tmp"},
            "call_id": "call-456",
            "reason": "Опасная команда",
        },
    ),
    (
        HITLDecisionMadeEvent(
            session_id="session-123",
            call_id="call-456",
            decision="APPROVE",  # APPROVE, EDIT, REJECT
            tool_name="write_file",
            original_args={"path": "test.py"},
            modified_args=None,
        ),
        {
            "call_id": "call-456",
            "decision": "APPROVE",
            "tool_name": "write_file",
            "original_args": {"path": "test.py"},
            "modified_args": None,
        },
    ),
    (
        SessionCreatedEvent(session_id="session-123", system_prompt="You are a helpful assistant"),
        {"system_prompt_length": 27},
    ),
    (
        MessageAddedEvent(session_id="session-123", role="user", content_length=100, agent_name="coder"),
        {"role": "user", "content_length": 100, "agent_name": "coder"},
    ),
]


@pytest.mark.parametrize(("event", "data"), EXAMPLES, ids=[type(event).__name__ for event, _ in EXAMPLES])
async def test_s2_each_kind_of_event(event: BaseEvent, data: dict[str, Any]) -> None:
    """S2, types of events: each is built and published as printed."""
    with event_bus.capture_events() as events:
        await event_bus.publish(event)
    assert [(captured.session_id, captured.data) for captured in events] == [("session-123", data)]


def test_s2_categories() -> None:
    """S2, categories: the six that the document names."""
    assert [
        EventCategory.AGENT,  # События агентов
        EventCategory.SESSION,  # События сессий
        EventCategory.TOOL,  # События инструментов
        EventCategory.HITL,  # HITL события
        EventCategory.SYSTEM,  # Системные события
        EventCategory.METRICS,  # События метрик
    ] == ["agent", "session", "tool", "hitl", "system", "metrics"]


async def test_s2_a_custom_subscriber(capsys: pytest.CaptureFixture[str]) -> None:
    """S2, custom subscribers: one class, two subscriptions."""

    class CustomSubscriber:
        """Пользовательский подписчик."""

        def __init__(self) -> None:
            self._setup_subscriptions()

        def _setup_subscriptions(self) -> None:
            """Настройка подписок."""
            event_bus.subscribe(event_type=EventType.AGENT_SWITCHED, handler=self._on_agent_switched, priority=5)

            event_bus.subscribe(event_category=EventCategory.TOOL, handler=self._on_tool_event, priority=3)

        async def _on_agent_switched(self, event: Any) -> None:
            """Обработчик переключения агента."""
            print(f"Агент переключен: {event.data['from_agent']} → {event.data['to_agent']}")

        async def _on_tool_event(self, event: Any) -> None:
            """Обработчик событий инструментов."""
            print(f"Событие инструмента: {event.event_type}")

    # Инициализация
    custom_subscriber = CustomSubscriber()

    await event_bus.publish(switched(), wait_for_handlers=True)
    await event_bus.publish(ToolExecutionStartedEvent(tool_name="echo", call_id="c"), wait_for_handlers=True)
    assert capsys.readouterr().out.splitlines() == [
        "Агент переключен: orchestrator → coder",
        "Событие инструмента: tool_execution_started",
    ]
    assert custom_subscriber is not None


@pytest.mark.filterwarnings("ignore:datetime.datetime.utcnow:DeprecationWarning")
async def test_s2_middleware(caplog: pytest.LogCaptureFixture) -> None:
    """S2, middleware: one that looks, one that adds, one that cancels."""

    # Middleware для валидации событий
    async def validate_event_middleware(event: Any) -> Any:
        if not event.session_id:
            logger.warning(f"Событие {event.event_type} без session_id")
        return event

    # Middleware для обогащения событий
    async def enrich_event_middleware(event: Any) -> Any:
        event.data["enriched_at"] = datetime.utcnow().isoformat()
        return event

    # Middleware для фильтрации событий
    async def filter_test_events_middleware(event: Any) -> Any:
        if event.session_id and event.session_id.startswith("test-"):
            return None  # Отменить тестовые события
        return event

    # Добавление middleware
    event_bus.add_middleware(validate_event_middleware)
    event_bus.add_middleware(enrich_event_middleware)
    event_bus.add_middleware(filter_test_events_middleware)

    seen: list[Any] = []
    event_bus.subscribe(handler=seen.append)
    await publish(switched("session-123"), switched("test-1"), LLMRequestStartedEvent(model="gpt-4o"))
    assert [event.session_id for event in seen] == ["session-123", None]
    assert all(datetime.fromisoformat(event.data["enriched_at"]) for event in seen)
    assert caplog.messages == ["Событие llm_request_started без session_id"]


async def test_s2_correlation_id() -> None:
    """S2, correlation: events of one chain are found by their id."""
    correlation_id = str(uuid.uuid4())

    # Первое событие
    await event_bus.publish(switched(correlation_id=correlation_id))

    # Связанное событие
    await event_bus.publish(
        ToolExecutionRequestedEvent(
            tool_name="write_file", arguments={}, call_id="c", agent="coder", correlation_id=correlation_id
        )
    )

    # Все события с одним correlation_id можно отследить
    found = event_bus.store.query(correlation_id=correlation_id)
    assert [event.event_type for event in found] == ["agent_switched", "tool_execution_requested"]


async def test_s2_priorities() -> None:
    """S2, priorities: from the highest to the lowest."""
    order: list[str] = []

    # Низкий приоритет (выполнится последним)
    @event_bus.subscribe(event_type=EventType.AGENT_SWITCHED, priority=0)
    async def low_priority_handler(event: Any) -> None:
        order.append("low")

    # Обычный приоритет
    @event_bus.subscribe(event_type=EventType.AGENT_SWITCHED, priority=5)
    async def normal_handler(event: Any) -> None:
        order.append("normal")

    # Высокий приоритет (выполнится первым)
    @event_bus.subscribe(event_type=EventType.AGENT_SWITCHED, priority=10)
    async def critical_handler(event: Any) -> None:
        order.append("critical")

    await event_bus.publish(switched(), wait_for_handlers=True)
    assert order == ["critical", "normal", "low"]


async def test_s2_errors_in_handlers(caplog: pytest.LogCaptureFixture) -> None:
    """S2, best practices 2: a handler that looks after its own errors."""

    async def do_something(event: Any) -> None:
        raise RuntimeError("broken")

    @event_bus.subscribe(event_type=EventType.AGENT_SWITCHED)
    async def my_handler(event: Any) -> None:
        try:
            await do_something(event)
        except Exception as e:
            logger.error(f"Ошибка в обработчике: {e}")
            # Не пробрасывайте исключение

    failed = event_bus.get_stats().failed_handlers
    await publish(switched())
    assert caplog.messages == ["Ошибка в обработчике: broken"]
    assert event_bus.get_stats().failed_handlers == failed


async def test_s2_waiting_for_handlers_or_not() -> None:
    """S2, best practices 3: critical operations wait, the others do not."""
    seen: list[Any] = []
    event_bus.subscribe(handler=seen.append)
    event, another = switched(), switched()

    # Для критичных операций
    await event_bus.publish(event, wait_for_handlers=True)
    assert seen == [event]

    # Для fire-and-forget (по умолчанию)
    await event_bus.publish(another)
    assert await event_bus.drain()
    assert seen == [event, another]


def test_s2_data_must_be_serialisable() -> None:
    """S2, best practices 4: the good data are taken, the bad are refused at once."""
    # ✅ Хорошо
    data: dict[str, Any] = {"count": 5, "name": "test", "items": ["a", "b"]}
    assert BaseEvent(EventType.AGENT_REGISTERED, data).data == data

    # ❌ Плохо
    some_complex_object = object()
    data = {"object": some_complex_object}  # Не сериализуется
    with pytest.raises(InvalidEvent, match=r"data\.object.*object"):
        BaseEvent(EventType.AGENT_REGISTERED, data)


async def test_s2_debugging(caplog: pytest.LogCaptureFixture) -> None:
    """S2, debugging: at DEBUG the logger shows what the bus does."""
    level = logging.getLogger("agent_runtime.events").level
    logging.getLogger("agent_runtime.events").setLevel(logging.DEBUG)
    event = switched()
    await publish(event)
    logging.getLogger("agent_runtime.events").setLevel(level)
    assert event.event_id in caplog.text


async def test_s2_reference() -> None:
    """S2, reference: the methods of EventBus and the fields of BaseEvent, in the order that the document gives."""

    async def handler(event: Any) -> None:
        raise AssertionError("was unsubscribed")

    event_bus.subscribe(event_type=EventType.AGENT_SWITCHED, event_category=None, handler=handler, priority=0)
    event_bus.unsubscribe(event_type=EventType.AGENT_SWITCHED, event_category=None, handler=handler)
    assert await event_bus.publish(event=switched(), wait_for_handlers=True) is None
    await event_bus.clear()
    event = switched()
    fields = ["event_id", "event_type", "event_category", "timestamp", "session_id", "correlation_id", "causation_id"]
    assert [field for field in [*fields, "data", "source", "version"] if not hasattr(event, field)] == []
    assert isinstance(event.timestamp, datetime)


# -- S3 ----------------------------------------------------------------------------------------------------


async def test_s3_publish_subscribe_metrics_and_audit(capsys: pytest.CaptureFixture[str]) -> None:
    """S3, usage: its four examples, one after another."""
    from agent_runtime.events.subscribers import audit_logger, metrics_collector

    correlation_id = "corr-1"

    @event_bus.subscribe(event_type=EventType.AGENT_SWITCHED, priority=10)
    async def my_handler(event: Any) -> None:
        print(f"Agent switched: {event.data['reason']}")

    await event_bus.publish(
        AgentSwitchedEvent(
            session_id="session-123",
            from_agent="orchestrator",
            to_agent="coder",
            reason="Code modification required",
            correlation_id=correlation_id,
        )
    )
    assert await event_bus.drain()

    metrics = metrics_collector.get_metrics()
    avg_duration = metrics_collector.get_agent_avg_duration("coder")
    success_rate = metrics_collector.get_tool_success_rate("write_file")

    log = audit_logger.get_audit_log(session_id="session-123", event_type="agent_switched", limit=10)

    assert "Agent switched: Code modification required\n" in capsys.readouterr().out
    assert (metrics["agent_switches"], avg_duration, success_rate) == ({"orchestrator_to_coder": 1}, 0, 0)
    assert [(row["correlation_id"], row["to_agent"]) for row in log] == [("corr-1", "coder")]


# -- S4 ----------------------------------------------------------------------------------------------------

DOMAIN_EXAMPLES: list[DomainEvent] = [
    SessionCreated(aggregate_id="s", session_id="s", created_by="user"),
    MessageReceived(aggregate_id="s", session_id="s", message_content="hello", message_length=5),
    ConversationCompleted(aggregate_id="s", session_id="s", total_messages=2, duration_seconds=1.5),
    SessionExpired(aggregate_id="s", session_id="s", reason="idle"),
    AgentAssigned(aggregate_id="s", session_id="s", agent_type="coder", reason="code"),
    TaskCompleted(aggregate_id="s", session_id="s", agent_type="coder", success=True, result_summary="done"),
    AgentSwitchRequested(aggregate_id="s", session_id="s", from_agent="orchestrator", to_agent="coder", reason="code"),
]


@pytest.mark.parametrize("event", DOMAIN_EXAMPLES, ids=lambda event: type(event).__name__)
async def test_s4_domain_events(event: DomainEvent) -> None:
    """S4, 1: each domain event is immutable, and is subscribed to by its class."""
    seen: list[Any] = []
    event_bus.subscribe(event_type=type(event), handler=seen.append)
    await event_bus.publish(event, wait_for_handlers=True)
    assert seen == [event]
    with pytest.raises(ValueError, match="frozen"):
        event.aggregate_id = "other"


async def test_s4_handler_with_retry() -> None:
    """S4, 4: a decorator under the subscription."""
    calls: list[Any] = []

    # Регистрация обработчика с retry
    @event_bus.subscribe(event_type=EventType.AGENT_SWITCHED)
    @EventHandlerWithRetry(max_retries=3, retry_delay=0)
    async def handle_agent_switch(event: Any) -> str:
        # Обработка события
        calls.append(event)
        if len(calls) < 3:
            raise RuntimeError("not yet")
        return "done"

    assert await event_bus.publish(switched(), wait_for_handlers=True) == ["done"]
    assert len(calls) == 3


async def test_s4_correlation_in_an_orchestrator() -> None:
    """S4, 5: the id is taken from the context, given or not."""

    async def process_message(session_id: str, message: str) -> str:
        # Создать correlation ID для трассировки
        correlation_id = EventCorrelation.create_correlation_id()
        EventCorrelation.set_correlation_id(correlation_id)

        # Все события будут иметь этот correlation_id
        await event_bus.publish(
            AgentProcessingStartedEvent(
                session_id=session_id,
                correlation_id=correlation_id,  # Автоматически из контекста
            )
        )
        await event_bus.publish(AgentProcessingStartedEvent(session_id=session_id, message=message))
        return correlation_id

    with event_bus.capture_events() as events:
        correlation_id = await process_message("session-1", "hello")
    assert [event.correlation_id for event in events] == [correlation_id, correlation_id]
    assert EventCorrelation.get_correlation_id() == correlation_id


async def test_s4_domain_event_subscriber(caplog: pytest.LogCaptureFixture) -> None:
    """S4, integration 2: a subscriber of domain events."""
    counts: dict[str, int] = {}

    class metrics:
        @staticmethod
        def increment(name: str) -> None:
            counts[name] = counts.get(name, 0) + 1

    class DomainEventSubscriber:
        """Подписчик на доменные события"""

        def __init__(self) -> None:
            self._setup_subscriptions()

        def _setup_subscriptions(self) -> None:
            """Настроить подписки"""
            event_bus.subscribe(event_type=SessionCreated, handler=self._on_session_created)

            event_bus.subscribe(event_type=MessageReceived, handler=self._on_message_received)

        async def _on_session_created(self, event: SessionCreated) -> None:
            """Обработать создание сессии"""
            # Логирование, метрики, персистентность
            logger.info(f"Session created: {event.session_id}")

        async def _on_message_received(self, event: MessageReceived) -> None:
            """Обработать получение сообщения"""
            # Обновить метрики
            metrics.increment("messages_received")

    caplog.set_level(logging.INFO, "example")
    subscriber = DomainEventSubscriber()
    for event in (
        SessionCreated(session_id="s"),
        MessageReceived(session_id="s", message_content="", message_length=0),
    ):
        await event_bus.publish(event, wait_for_handlers=True)
    assert caplog.messages == ["Session created: s"]
    assert counts == {"messages_received": 1}
    assert subscriber is not None


async def test_s4_two_levels_on_one_bus() -> None:
    """S4, before and after: the domain event and the infrastructure event, side by side."""
    session_id, system_prompt = "session-1", "You are a helpful assistant"
    domain: list[Any] = []
    infrastructure: list[Any] = []
    event_bus.subscribe(event_type=SessionCreated, handler=domain.append)
    event_bus.subscribe(event_type=SessionCreatedEvent, handler=infrastructure.append)

    # Domain Layer - бизнес-события
    await event_bus.publish(SessionCreated(aggregate_id=session_id, session_id=session_id, created_by="user"))

    # Infrastructure Layer - технические события
    await event_bus.publish(SessionCreatedEvent(session_id=session_id, system_prompt=system_prompt))

    assert await event_bus.drain()
    assert [event.created_by for event in domain] == ["user"]
    assert [event.data for event in infrastructure] == [{"system_prompt_length": 27}]


async def test_s4_capturing_events_in_a_test() -> None:
    """S4, testability: a service under test, and what it published."""

    class SessionManagementService:
        def __init__(self, repository: dict[str, str]) -> None:
            self._repository = repository

        async def create_session(self, session_id: str) -> str:
            self._repository[session_id] = session_id
            # Публикуем доменное событие
            await event_bus.publish(SessionCreated(aggregate_id=session_id, session_id=session_id))
            return session_id

    service = SessionManagementService({})

    # Проверяем, что событие опубликовано
    with event_bus.capture_events() as events:
        await service.create_session("session-1")

        assert len(events) == 1
        assert isinstance(events[0], SessionCreated)
        assert events[0].session_id == "session-1"
