"""The overview's last row: the health of the pipeline that all other rows are measured with."""

from dashboards.panels import Query, Row, Thresholds, graph
from dashboards.promql import quantile, rate, series, total

NONE_IS_GOOD: Thresholds = ((None, "transparent"), (1, "red"))

PIPELINE = Row(
    700,
    "Pipeline",
    (
        graph(
            701,
            "Events in",
            "Events received over HTTP, by outcome. Rejected: a publisher sends what cannot be stored, its answer says "
            "why; duplicates are harmless.",
            "eps",
            Query(rate("agent_runtime_ingest_events_total", "outcome"), "{{outcome}}"),
            Query(rate("agent_runtime_ingest_rejected_total", "reason"), "rejected: {{reason}}"),
        ),
        graph(
            702,
            "Ingest requests",
            "HTTP requests with events, by status code. 401, 403: a key; 413: a body too large; 503: overloaded, the "
            "sender must retry.",
            "reqps",
            Query(rate("agent_runtime_ingest_requests_total", "code"), "{{code}}"),
            stacked=True,
        ),
        graph(
            703,
            "Events stored by type",
            "What reaches the store, from the bus and over HTTP. A type that stops: its publisher stopped.",
            "eps",
            Query(rate("agent_runtime_events_total", "event_type"), "{{event_type}}"),
            stacked=True,
        ),
        graph(
            704,
            "Projection lag",
            "Age of the oldest stored event that a projection has not folded. Growing: this board is behind by as "
            "much; see which one, and the processor.",
            "s",
            Query(f"max by (projection) ({series('agent_runtime_projection_lag_seconds')})", "{{projection}}"),
        ),
        graph(
            705,
            "Events waiting",
            "Events stored and not yet folded, and events in the subscribers' queues. A slow subscriber lags alone and "
            "catches up from the store.",
            "short",
            Query(total(series("agent_runtime_projection_lag_events"), "projection"), "projection {{projection}}"),
            Query(total(series("agent_runtime_subscriber_queue_depth"), "subscriber"), "queue {{subscriber}}"),
        ),
        graph(
            706,
            "Dead letters",
            "Events whose handler gave up, and spans that the trace backend refused. Not zero: read the reason at "
            "GET /events/dead-letters, mend it, retry.",
            "short",
            Query(total(series("agent_runtime_dead_letters"), "queue"), "{{queue}}"),
            thresholds=NONE_IS_GOOD,
        ),
        graph(
            707,
            "Commit and export time, p95",
            "Time of a commit to the store, and of a request to the trace backend. Slow commits: the disk. Slow "
            "exports: the backend or the way to it; nothing else waits for them.",
            "s",
            Query(quantile(0.95, "agent_runtime_commit_seconds"), "commit"),
            Query(quantile(0.95, "agent_runtime_span_export_seconds"), "export"),
        ),
        graph(
            708,
            "Spans out",
            "Spans sent to the trace backend. Refused or failing: see the reason; nothing is lost, the store is the "
            "queue.",
            "cps",
            Query(rate("agent_runtime_spans_exported_total"), "exported"),
            Query(rate("agent_runtime_spans_refused_total"), "refused"),
            Query(rate("agent_runtime_span_export_failures_total", "reason"), "failed: {{reason}}"),
        ),
        graph(
            709,
            "Spans pending",
            "Spans that wait to be sent. Growing: the trace backend is down or too slow; sent when it is back.",
            "short",
            Query(total(series("agent_runtime_spans_pending")), "pending"),
        ),
        graph(
            710,
            "Subscribers at work",
            "Events handled by subscriber and outcome. Failures: the log names the handler; if it retries, look among "
            "the dead letters.",
            "eps",
            Query(rate("agent_runtime_subscriber_handled_total", "subscriber, outcome"), "{{subscriber}}: {{outcome}}"),
        ),
        graph(
            711,
            "Subscriber time",
            "Seconds of work a second by subscriber: 1 is a whole processor. The first to look at when lag grows.",
            "percentunit",
            Query(rate("agent_runtime_subscriber_seconds_total", "subscriber"), "{{subscriber}}"),
        ),
        graph(
            712,
            "Data quality",
            "Events after their turn was settled, values beyond a label's budget (counted as _other), durations below "
            "zero. Not zero: a publisher is late, names too many things, or its clock jumps.",
            "eps",
            Query(rate("agent_runtime_late_events_total"), "late"),
            Query(rate("agent_runtime_label_overflow_total", "label"), "_other: {{label}}"),
            Query(rate("agent_runtime_negative_durations_total"), "negative durations"),
        ),
        graph(
            713,
            "Events in a commit",
            "Events that one commit writes, on average; it grows with the load, the store groups what waits. Failed "
            "commits: the disk is full or broken, senders get 503 and must send again.",
            "short",
            Query(
                f"{rate('agent_runtime_commit_batch_events_sum')} / "
                f"({rate('agent_runtime_commit_batch_events_count')} > 0)",
                "events",
            ),
            Query(rate("agent_runtime_commit_failures_total"), "failed commits a second"),
        ),
        graph(
            714,
            "Store size",
            "Bytes of the event store on disk. Plan the disk by its slope.",
            "bytes",
            Query(total(series("agent_runtime_store_bytes")), "store"),
        ),
        graph(
            715,
            "Last position",
            "Events in the store so far. Flat while publishers are active: nothing is accepted, see Ingest requests.",
            "short",
            Query(f"max({series('agent_runtime_store_last_position')})", "position"),
        ),
    ),
)
