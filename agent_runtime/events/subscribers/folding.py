"""What the subscribers that fold events share."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from agent_runtime.events.base_event import BaseEvent
from agent_runtime.events.event_bus import EventBus

logger = logging.getLogger("agent_runtime.events")


class FoldingSubscriber:
    """A fold of events that is fed either by a bus (``attach``) or, as a ``Projection``, by a ``ProjectionRunner``.

    Attributes:
        name: in statistics and dead letters, and of the checkpoint.
        version: of the state that ``dump`` gives.
        priority: on the bus; the ladder is 15 context, 10 audit, 5 metrics, 1 persistence, 0 everything else.
    """

    name = "folding_subscriber"
    version = "1"
    priority = 0

    _folds: Mapping[Any, Callable[[Any], None]]

    def attach(self, bus: EventBus) -> Callable[[], None]:
        """Follow ``bus`` from now on; attaching twice counts once.

        Returns:
            A function without arguments that detaches it again.
        """
        bus.unsubscribe(self.handle)
        return bus.subscribe(handler=self.handle, priority=self.priority, name=self.name)

    def handle(self, event: Any) -> None:
        """Fold one event; what is of no interest is passed over."""
        fold = self._folds.get(getattr(event, "event_type", None))
        if fold is not None:
            fold(event)

    def apply(self, events: Sequence[BaseEvent]) -> None:
        """See ``Projection.apply``."""
        for event in events:
            try:
                self.handle(event)
            except Exception:
                logger.exception("%s passed over event %s", self.name, event.event_id)

    def settle(self, now_ns: int) -> None:
        """See ``Projection.settle``: nothing here waits for anything."""


def in_turn(functions: Sequence[Callable[[], None]]) -> Callable[[], None]:
    """One function that calls all of ``functions``: what detaches a subscriber that has several subscriptions."""

    def call() -> None:
        for function in functions:
            function()

    return call
