"""Who listens to what. Subscribing and unsubscribing may happen in any thread."""

from __future__ import annotations

import threading
from collections.abc import Iterable

from agent_runtime.events.base_event import BaseEvent, as_event_type
from agent_runtime.events.domain_events import DOMAIN_EVENTS, DomainEvent
from agent_runtime.events.errors import InvalidEvent
from agent_runtime.events.event_types import EventCategory, EventType
from agent_runtime.events.subscription import Handler, Subscription

Listens = EventType | str | type[BaseEvent] | type[DomainEvent] | None
Route = tuple[Subscription, ...]

BY_TYPE, BY_CATEGORY, BY_ALL = 0, 1, 2


class Routing:
    """The subscriptions of a bus, and for each type of event those that it goes to.

    Attributes:
        subscriptions: in order of registration.
        known: the routes found so far, by type of event; made anew when a subscription comes or goes.
        handled, failed: what subscriptions did that are gone.
    """

    def __init__(self) -> None:
        self.subscriptions: Route = ()
        self.known: dict[str, Route] = {}
        self._gone: list[Subscription] = []
        self._handled = 0
        self._failed = 0
        self._order = 0
        self._lock = threading.Lock()

    def add(
        self, handler: Handler, name: str, scope: int, key: str, priority: int, timeout: float | None
    ) -> Subscription:
        """A new subscription; see ``Subscription``."""
        with self._lock:
            self._order += 1
            subscription = Subscription(handler, name, scope, key, priority, self._order, timeout)
            self.subscriptions = (*self.subscriptions, subscription)
            self.known = {}
        return subscription

    def find(self, handler: Handler, scope: int, key: str) -> Route:
        """Every subscription of ``handler`` in one of the lists."""
        return tuple(s for s in self.subscriptions if s.handler == handler and s.scope == scope and s.key == key)

    def drop(self, subscriptions: Iterable[Subscription]) -> Route:
        """End ``subscriptions``; returns those of them that had not been ended before."""
        wanted = set(subscriptions)
        with self._lock:
            gone = tuple(s for s in self.subscriptions if s in wanted)
            for subscription in gone:
                subscription.end()
            self.subscriptions = tuple(s for s in self.subscriptions if s not in wanted)
            self.known = {}
            self._gone.extend(gone)
            self._settle()
        return gone

    def route(self, event: BaseEvent) -> Route:
        """The subscriptions that ``event`` goes to: by priority, then type before category before all, then by age."""
        route = self.known.get(event.event_type)
        return self._find_route(event.event_type, event.event_category) if route is None else route

    def _find_route(self, event_type: str, category: EventCategory) -> Route:
        with self._lock:
            found = [
                s
                for s in self.subscriptions
                if s.scope == BY_ALL or s.key == (event_type if s.scope == BY_TYPE else category)
            ]
            found.sort(key=lambda s: (-s.priority, s.scope, s.order))
            route = self.known[event_type] = tuple(found)
        return route

    def outcomes(self) -> tuple[int, int]:
        """How often handlers succeeded and failed, those of former subscriptions included."""
        with self._lock:
            self._settle()
            both = (*self.subscriptions, *self._gone)
            return self._handled + sum(s.handled for s in both), self._failed + sum(s.failed for s in both)

    def _settle(self) -> None:
        """Keep the figures of former subscriptions that are no longer at work, and forget the rest of them."""
        at_work = []
        for subscription in self._gone:
            if subscription.worker is not None:
                at_work.append(subscription)
            else:
                self._handled += subscription.handled
                self._failed += subscription.failed
        self._gone = at_work


def listens_to(event_type: Listens, event_category: EventCategory | str | None) -> tuple[int, str]:
    """The list that a subscription belongs to, and its key there; the type wins over the category.

    Raises:
        InvalidEvent: there is no such type. ValueError: there is no such category.
    """
    if event_type is not None:
        if isinstance(event_type, type):
            return _listens_to_class(event_type)
        return BY_TYPE, event_type if event_type in DOMAIN_EVENTS else as_event_type(event_type)
    if event_category is not None:
        return BY_CATEGORY, EventCategory(event_category)
    return BY_ALL, ""


def _listens_to_class(event_class: type) -> tuple[int, str]:
    if event_class is BaseEvent:
        return BY_ALL, ""
    if event_class is DomainEvent:
        return BY_CATEGORY, EventCategory.DOMAIN
    if issubclass(event_class, DomainEvent):
        return BY_TYPE, event_class.__name__
    if issubclass(event_class, BaseEvent) and event_class.TYPE is not None:
        return BY_TYPE, event_class.TYPE
    raise InvalidEvent("event_type", f"{event_class.__name__} is no event class")
