from agent_runtime.events.event_bus import EventBus
from agent_runtime.events.session_events import SessionCreatedEvent
from agent_runtime.events.store.base import DeadLetter
from telemetry.metrics import METRICS, table
from telemetry.outbox import ExportFigures
from telemetry.pipeline_metrics import PIPELINE_METRICS, DoorFigures, pipeline_families


class Behind:
    """A follower that lags."""

    recorded_ns = 1
    lag_events = 7


def shown(
    bus: EventBus, export: ExportFigures | None = None, door: DoorFigures | None = None
) -> dict[str, dict[tuple[str, ...], float]]:
    """The pipeline's values by metric, without prefix, and labels; the sum for a histogram."""
    families = pipeline_families(bus, {"spans": Behind()}, export, door or DoorFigures())
    assert list(PIPELINE_METRICS) == [family.metric for family in families]
    return {
        family.metric.name.removeprefix("agent_runtime_"): {
            one.labels: one.value if hasattr(one, "value") else one.sum for one in family.series
        }
        for family in families
    }


def test_names_do_not_clash() -> None:
    """The pipeline's metrics and the fold's are one table."""
    assert len(METRICS) + len(PIPELINE_METRICS) == len(table(*METRICS, *PIPELINE_METRICS))


async def test_the_pipeline_shows_itself() -> None:
    """Handled and failed events of each subscriber, the store's newest position, dead letters, and lag."""
    bus = EventBus()

    def fails(event: object) -> None:
        raise RuntimeError("no")

    bus.subscribe(handler=lambda event: None, name="works")
    bus.subscribe(handler=fails, name="fails")
    for _ in range(3):
        await bus.publish(SessionCreatedEvent(session_id="s"), wait_for_handlers=True)
    bus.store.add_dead_letter(DeadLetter("spans", "otlp", "e", "{}", "no", 1, 1))
    values = shown(bus)
    assert (3, 3) == (
        values["subscriber_handled_total"]["works", "ok"],
        values["subscriber_handled_total"]["fails", "failed"],
    )
    assert {(): 3} == values["store_last_position"]
    assert {("spans",): 7} == values["projection_lag_events"]
    assert values["projection_lag_seconds"]["spans",] > 0
    assert 1 == values["dead_letters"]["spans",]
    assert values["subscriber_seconds_total"]["works",] > 0


async def test_the_door_and_the_exporter() -> None:
    """What they count is exposed as they count it."""
    door, export = DoorFigures(), ExportFigures(exported=5, refused=2, pending=3)
    door.answered(202)
    door.answered(202)
    door.took(4, 1)
    door.refused("not JSON", 2)
    export.failures["retry"] = 6
    values = shown(EventBus(), export, door)
    assert {("202",): 2} == values["ingest_requests_total"]
    assert {("accepted",): 4, ("duplicate",): 1, ("rejected",): 2} == values["ingest_events_total"]
    assert {("not JSON",): 2} == values["ingest_rejected_total"]
    assert (5, 2, 3, 6) == (
        values["spans_exported_total"][()],
        values["spans_refused_total"][()],
        values["spans_pending"][()],
        values["span_export_failures_total"]["retry",],
    )
