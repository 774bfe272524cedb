import signal
import subprocess
import sys
from itertools import groupby
from pathlib import Path

import pytest

from agent_runtime.events.event_bus import EventBus
from agent_runtime.events.store.sqlite import SqliteStore
from agent_runtime.hitl.announcements import request_event_id
from tests.hitl.asking import ARGUMENTS, CAUSE, TURN, Clock, Managers, kinds, stored

FIRST_CALL = ["tool_approval_required", "hitl_approval_requested", "hitl_decision_made"]
SECOND_CALL = ["tool_approval_required", "hitl_approval_requested", "hitl_timeout_occurred"]


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize(
    ("dies_at", "told"),
    [
        ("hitl_approval_requested", FIRST_CALL[:2]),
        ("hitl_decision_made", FIRST_CALL),
        ("hitl_timeout_occurred", FIRST_CALL + SECOND_CALL),
    ],
)
async def test_a_kill_between_the_commit_and_its_event_loses_nothing(
    url: str, managers: Managers, clock: Clock, tmp_path: Path, dies_at: str, told: list[str], moment: str
) -> None:
    """After the restart every event is stored once, in its turn, whether it had been stored or not."""
    events = tmp_path / "events.db"
    child = subprocess.run([sys.executable, "-m", "tests.hitl.dying", url, str(events), dies_at, moment], timeout=60)
    assert -signal.SIGKILL == child.returncode
    store = SqliteStore(events)
    bus = EventBus(store)
    kept = store.last_position()
    manager = managers.new(bus)
    await manager.start()
    await manager.sweep()
    await manager.stop()
    assert (told, {TURN}) == (kinds(bus), {event.correlation_id for event in stored(bus)})
    assert (moment == "after") == (kept == len(told))
    for _, call in groupby(stored(bus), key=lambda event: event.data["call_id"]):
        required, requested, *ends = call
        assert [CAUSE, CAUSE, *[requested.event_id] * len(ends)] == [
            event.causation_id for event in (required, requested, *ends)
        ]
    await bus.close()
    store.close()


async def test_a_pending_approval_outlives_its_process(
    url: str, managers: Managers, clock: Clock, tmp_path: Path
) -> None:
    """And is decided in the next one, in the turn that asked."""
    events = tmp_path / "events.db"
    command = [sys.executable, "-m", "tests.hitl.dying", url, str(events), "hitl_approval_requested", "after"]
    assert -signal.SIGKILL == subprocess.run(command, timeout=60).returncode
    store = SqliteStore(events)
    bus = EventBus(store)
    manager = managers.new(bus)
    await manager.start()
    (approval,) = await manager.pending()
    decided = await manager.decide("call-1", "approve", decided_by="ann")
    await manager.stop()
    event = stored(bus)[-1]
    assert ARGUMENTS == decided.granted_arguments()
    assert ("hitl_decision_made", TURN, request_event_id(approval.id)) == (
        event.event_type,
        event.correlation_id,
        event.causation_id,
    )
    await bus.close()
    store.close()
