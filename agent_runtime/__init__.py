"""agent-runtime: observability for multi-agent LLM systems, as a fold of one durable event store.

The floors, from the ground up; imports go down only:

1. ``agent_runtime.events``   facts, the bus, the store, the classic subscribers
2. ``telemetry``              metrics, spans, logs: folds of the store
3. ``agent_runtime.api``      the HTTP door and the views
4. ``agent_runtime.main``     ``create_app``: the only place that wires; ``cli`` and ``settings`` beside it
"""

__version__ = "0.1.0"
