"""The classic subscribers, and a default instance of each collector.

``metrics_collector``, ``audit_logger`` and ``session_metrics_collector`` are made, and attached to the default
``event_bus``, when their name is first used: a script that imports one follows the bus from there on, and a program
that uses none pays for none.
"""

from __future__ import annotations

from agent_runtime.events.event_bus import event_bus
from agent_runtime.events.subscribers.agent_context_subscriber import AgentContextSubscriber
from agent_runtime.events.subscribers.audit_logger import AuditLogger
from agent_runtime.events.subscribers.domain_event_subscriber import DomainEventSubscriber
from agent_runtime.events.subscribers.folding import FoldingSubscriber
from agent_runtime.events.subscribers.metrics_collector import MetricsCollector
from agent_runtime.events.subscribers.persistence_subscriber import PersistenceSubscriber
from agent_runtime.events.subscribers.session_metrics_collector import SessionMetricsCollector
from agent_runtime.events.subscribers.timer_writer import TimerWriter

__all__ = [
    "AgentContextSubscriber",
    "AuditLogger",
    "DomainEventSubscriber",
    "FoldingSubscriber",
    "MetricsCollector",
    "PersistenceSubscriber",
    "SessionMetricsCollector",
    "TimerWriter",
    "audit_logger",
    "metrics_collector",
    "session_metrics_collector",
]

audit_logger: AuditLogger
metrics_collector: MetricsCollector
session_metrics_collector: SessionMetricsCollector

_DEFAULTS: dict[str, type[FoldingSubscriber]] = {
    "audit_logger": AuditLogger,
    "metrics_collector": MetricsCollector,
    "session_metrics_collector": SessionMetricsCollector,
}

# Importing a submodule binds its name here, where the instance of that name belongs.
for _name in _DEFAULTS:
    globals().pop(_name, None)


def __getattr__(name: str) -> FoldingSubscriber:
    if name not in _DEFAULTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    subscriber: FoldingSubscriber = _DEFAULTS[name]()
    subscriber.attach(event_bus)
    globals()[name] = subscriber
    return subscriber
