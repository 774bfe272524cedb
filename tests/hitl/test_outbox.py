import asyncio

import pytest

from agent_runtime.events.correlation import EventCorrelation
from agent_runtime.events.event_bus import EventBus
from agent_runtime.hitl.decisions import Status
from agent_runtime.hitl.models import Approval
from agent_runtime.hitl.outbox import PAGE, Outbox
from agent_runtime.hitl.table import ApprovalTable
from agent_runtime.sessions.database import Database
from tests.hitl.asking import TURN, Managers, MoodyStore, ask, kinds, stored

WHOLE = ["tool_approval_required", "hitl_approval_requested", "hitl_decision_made"]


async def test_a_decision_stands_while_the_event_store_is_down(
    managers: Managers, caplog: pytest.LogCaptureFixture
) -> None:
    """Its event follows in the next round, and who waits is woken then, not before: what they do comes after it."""
    store = MoodyStore()
    bus = EventBus(store)
    manager = managers.new(bus)
    approval = await ask(manager)
    waiting = asyncio.create_task(manager.wait(approval.id))
    while not manager.waiting:
        await asyncio.sleep(0)
    store.down = True
    decided = await manager.decide("call-1", "approve", decided_by="ann")
    await manager.sweep()
    assert (Status.APPROVED, False, WHOLE[:2]) == (decided.status, waiting.done(), kinds(bus))
    assert "could not be published yet" in caplog.text
    store.down = False
    await manager.sweep()
    assert (Status.APPROVED, WHOLE) == ((await waiting).status, kinds(bus))


async def test_a_question_that_was_not_told_is_told_with_its_answer(managers: Managers) -> None:
    """In the order in which they happened."""
    store = MoodyStore()
    bus = EventBus(store)
    manager = managers.new(bus)
    store.down = True
    await ask(manager)
    store.down = False
    await manager.decide("call-1", "approve", decided_by="ann")
    await manager.sweep()
    assert WHOLE == kinds(bus)


async def test_many_processes_flush_and_each_event_is_stored_once(managers: Managers) -> None:
    """More than a page of them, in the order of the questions, in their own turn and not in that of who flushes."""
    count = PAGE + 5
    offline = MoodyStore()
    offline.down = True
    before = managers.new(EventBus(offline))
    for number in range(count):
        await ask(before, call_id=f"call-{number}", causation_id=None)
    bus = EventBus()
    EventCorrelation.set_correlation_id("ffffffffffffffffffffffffffffffff")
    EventCorrelation.set_causation_id("01890000-0000-7000-8000-00000000ffff")
    await asyncio.gather(*(managers.new(bus).sweep() for _ in range(3)))
    requested = [event for event in stored(bus) if event.event_type == "hitl_approval_requested"]
    assert [f"call-{number}" for number in range(count)] == [event.data["call_id"] for event in requested]
    assert count * 2 == bus.store.last_position()
    assert {(TURN, None)} == {(event.correlation_id, event.causation_id) for event in stored(bus)}


async def test_what_cannot_be_published_does_not_hold_up_the_rest(url: str, managers: Managers) -> None:
    """A row that someone spoilt stays, the others go."""
    offline = MoodyStore()
    offline.down = True
    before = managers.new(EventBus(offline))
    spoilt, sound = await ask(before), await ask(before, call_id="call-2")
    database = Database(url)
    async with database.write() as session:
        row = await session.get(Approval, spoilt.id)
        assert row is not None
        row.tool_name = "two\nlines"
    bus = EventBus()
    outbox = Outbox(bus, ApprovalTable(database))
    assert [sound.id] == [approval.id async for approval in outbox.flush()]
    await database.close()
