import asyncio
from datetime import timedelta
from typing import Any

import pytest

from agent_runtime.events.correlation import EventCorrelation
from agent_runtime.events.errors import InvalidEvent
from agent_runtime.events.event_bus import EventBus
from agent_runtime.events.store.memory import MemoryStore
from agent_runtime.hitl.announcements import request_event_id
from agent_runtime.hitl.arguments import arguments_hash
from agent_runtime.hitl.decisions import Status
from agent_runtime.hitl.errors import (
    AlreadyDecided,
    AmbiguousCall,
    ApprovalExpired,
    ArgumentsMismatch,
    CallPending,
    InvalidDecision,
    ManagerStopped,
    UnknownApproval,
)
from agent_runtime.hitl.manager import HITLManager
from tests.hitl.asking import ARGUMENTS, CAUSE, TURN, Clock, Managers, ask, kinds, stored

ASKED = ["tool_approval_required", "hitl_approval_requested"]
OTHER_TURN = "ffffffffffffffffffffffffffffffff"


# -- asking ------------------------------------------------------------------------------------------------------------


async def test_a_request_is_durable_and_told(
    manager: HITLManager, managers: Managers, bus: EventBus, clock: Clock
) -> None:
    """Another process sees it as it was asked."""
    approval = await ask(manager)
    seen = await managers.new(EventBus()).get(approval.id)
    assert {
        "call_id": "call-1",
        "session_id": "s-1",
        "agent": "coder",
        "tool_name": "write_file",
        "arguments": ARGUMENTS,
        "arguments_hash": arguments_hash(ARGUMENTS),
        "reason": "writes a file",
        "correlation_id": TURN,
        "causation_id": CAUSE,
        "requested_at": clock.moment,
        "expires_at": clock.moment + timedelta(seconds=300),
        "status": "pending",
        "decided_at": None,
        "decided_by": None,
        "modified_arguments": None,
        "feedback": None,
        "says_required": True,
        "announced": "pending",
    } == {column.name: getattr(seen, column.name) for column in seen.__table__.columns if column.name != "id"}
    assert ASKED == kinds(bus)


async def test_a_request_takes_its_turn_from_the_context(manager: HITLManager) -> None:
    """As every event does."""
    EventCorrelation.set_correlation_id(OTHER_TURN)
    EventCorrelation.set_causation_id(CAUSE)
    approval = await ask(manager, correlation_id=None, causation_id=None)
    assert (OTHER_TURN, CAUSE) == (approval.correlation_id, approval.causation_id)


async def test_a_request_without_a_turn_is_a_turn(manager: HITLManager, bus: EventBus) -> None:
    """Its events share a fresh correlation id, whatever the context of whoever decides."""
    approval = await ask(manager, correlation_id=None, causation_id=None)
    EventCorrelation.set_correlation_id(OTHER_TURN)
    EventCorrelation.set_causation_id(CAUSE)
    await manager.decide("call-1", "approve", decided_by="a")
    turn = approval.correlation_id
    assert turn is not None and len(turn) == 32
    assert [(turn, None), (turn, None), (turn, request_event_id(approval.id))] == [
        (event.correlation_id, event.causation_id) for event in stored(bus)
    ]


async def test_asking_leaves_the_context_alone(manager: HITLManager) -> None:
    """What the caller publishes next is in the caller's turn."""
    EventCorrelation.set_correlation_id(OTHER_TURN)
    EventCorrelation.set_causation_id(CAUSE)
    await ask(manager)
    assert (OTHER_TURN, CAUSE) == (EventCorrelation.get_correlation_id(), EventCorrelation.get_causation_id())


async def test_asking_again_is_asking_once(
    manager: HITLManager, managers: Managers, bus: EventBus, clock: Clock
) -> None:
    """The same call, asked about after a restart, still has its approval and its deadline."""
    first = await ask(manager)
    clock.pass_by(60)
    again = await ask(managers.new(bus), arguments=dict(reversed(ARGUMENTS.items())))
    assert (first.id, first.expires_at) == (again.id, again.expires_at)
    assert ASKED == kinds(bus)


@pytest.mark.parametrize("other", [{"arguments": {"path": "b"}}, {"tool_name": "delete_file"}])
async def test_a_pending_call_id_can_not_stand_for_another_call(manager: HITLManager, other: dict[str, Any]) -> None:
    """Else a person would approve one call and another would run."""
    await ask(manager)
    with pytest.raises(CallPending, match="call-1 of session s-1"):
        await ask(manager, **other)


async def test_a_call_id_can_be_used_again_once_its_time_is_up(manager: HITLManager, clock: Clock) -> None:
    """Nobody needs to have noticed before."""
    first = await ask(manager)
    clock.pass_by(300)
    second = await ask(manager, arguments={"path": "b"})
    assert ("expired", "pending") == ((await manager.get(first.id)).status, (await manager.get(second.id)).status)


@pytest.mark.parametrize(
    "broken",
    [
        {"tool_name": "a\nb"},
        {"call_id": ""},
        {"session_id": "\0"},
        {"arguments": {"a": float("inf")}},
        {"reason": "\0"},
    ],
)
async def test_what_cannot_be_told_is_not_kept(manager: HITLManager, bus: EventBus, broken: dict[str, Any]) -> None:
    """A row whose events no store takes would sit in the outbox for ever."""
    with pytest.raises(InvalidEvent):
        await ask(manager, **broken)
    assert ([], []) == (await manager.pending(), kinds(bus))


async def test_pending_is_what_can_be_decided_oldest_first(manager: HITLManager, clock: Clock) -> None:
    """Of all sessions or of one; not what is decided, nor what is due and not yet swept."""
    for number in (1, 2, 3, 4):
        await ask(manager, session_id=f"s-{number % 2}", call_id=f"call-{number}")
        clock.pass_by(90)
    await manager.decide("call-3", "approve", decided_by="a")
    every = [approval.call_id for approval in await manager.pending()]
    assert (["call-2", "call-4"], ["call-2", "call-4"], []) == (
        every,
        [approval.call_id for approval in await manager.pending("s-0")],
        await manager.pending("s-1"),
    )


# -- deciding ----------------------------------------------------------------------------------------------------------


async def test_an_approved_call_may_run(manager: HITLManager, managers: Managers, bus: EventBus) -> None:
    """Any process may decide, and the row says who did."""
    await ask(manager)
    decided = await managers.new(bus).decide("call-1", "Approve", decided_by="ann")
    assert (Status.APPROVED, "ann", ARGUMENTS) == (decided.status, decided.decided_by, decided.granted_arguments())
    assert [*ASKED, "hitl_decision_made"] == kinds(bus)


async def test_an_edited_call_runs_as_edited(manager: HITLManager) -> None:
    """The arguments that the model wrote stay beside."""
    await ask(manager)
    await manager.decide("call-1", "EDIT", modified_arguments={"path": "b.txt"}, feedback="elsewhere", decided_by="ann")
    kept = await manager.find("call-1")
    assert kept is not None
    assert (Status.EDITED, {"path": "b.txt"}, ARGUMENTS, "elsewhere") == (
        kept.status,
        kept.granted_arguments(),
        kept.arguments,
        kept.feedback,
    )


@pytest.mark.parametrize("second", ["approve", "reject", "edit"])
async def test_the_second_decision_is_told_of_the_first(manager: HITLManager, clock: Clock, second: str) -> None:
    """Who it was, and when; nothing changes."""
    await ask(manager)
    await manager.decide("call-1", "reject", feedback="no", decided_by="ann")
    then = clock.moment
    clock.pass_by(1)
    with pytest.raises(AlreadyDecided, match=r"already rejected by ann at 2026-03-01T12:00:00\.000000Z") as caught:
        await manager.decide("call-1", second, modified_arguments={} if second == "edit" else None, decided_by="bob")
    kept = await manager.find("call-1")
    assert kept is not None
    assert ("rejected", "ann", then) == (caught.value.status, caught.value.decided_by, caught.value.decided_at)
    assert ("rejected", "ann", then, "no") == (kept.status, kept.decided_by, kept.decided_at, kept.feedback)


async def test_a_decision_on_the_deadline_is_too_late(manager: HITLManager, clock: Clock, bus: EventBus) -> None:
    """Though nobody has expired it yet; a moment before it is in time."""
    await ask(manager)
    await ask(manager, call_id="call-2")
    clock.pass_by(299.999999)
    await manager.decide("call-1", "approve", decided_by="ann")
    clock.pass_by(0.000001)
    with pytest.raises(ApprovalExpired, match=r"expired at 2026-03-01T12:05:00\.000000Z"):
        await manager.decide("call-2", "approve", decided_by="ann")
    await manager.sweep()
    with pytest.raises(ApprovalExpired, match=r"expired at 2026-03-01T12:05:00\.000000Z"):
        await manager.decide("call-2", "approve", decided_by="ann")


async def test_a_decision_is_bound_to_the_arguments_that_were_seen(manager: HITLManager) -> None:
    """The hash of other arguments is refused; the right one is taken."""
    approval = await ask(manager)
    with pytest.raises(ArgumentsMismatch, match="other arguments"):
        await manager.decide("call-1", "approve", decided_by="ann", arguments_hash=arguments_hash({"path": "b"}))
    decided = await manager.decide("call-1", "approve", decided_by="ann", arguments_hash=approval.arguments_hash)
    assert Status.APPROVED == decided.status


async def test_a_late_decision_does_not_fall_on_the_next_call_of_that_id(manager: HITLManager) -> None:
    """With the hash or the id of what was seen, an approval of the first is never one of the second."""
    first = await ask(manager)
    await manager.decide(first.id, "reject", decided_by="ann")
    await ask(manager, arguments={"path": "/etc/passwd"})
    with pytest.raises(ArgumentsMismatch):
        await manager.decide("call-1", "approve", decided_by="bob", arguments_hash=first.arguments_hash)
    with pytest.raises(AlreadyDecided):
        await manager.decide(first.id, "approve", decided_by="bob")
    assert 1 == len(await manager.pending())


async def test_a_used_call_id_addresses_the_pending_one(manager: HITLManager) -> None:
    """Earlier approvals of the same id are left as they are."""
    first = await ask(manager)
    await manager.decide("call-1", "reject", decided_by="ann")
    second = await ask(manager)
    decided = await manager.decide("call-1", "approve", decided_by="bob")
    assert (second.id, "rejected") == (decided.id, (await manager.get(first.id)).status)


async def test_sessions_may_share_a_call_id(manager: HITLManager) -> None:
    """Then the session, or the approval's id, says which is meant."""
    ours, theirs = await ask(manager), await ask(manager, session_id="s-2")
    with pytest.raises(AmbiguousCall, match="2 sessions wait under call-1"):
        await manager.decide("call-1", "approve", decided_by="ann")
    assert [theirs.id, ours.id] == [
        (await manager.decide("call-1", "approve", decided_by="ann", session_id="s-2")).id,
        (await manager.decide(ours.id, "approve", decided_by="ann")).id,
    ]


@pytest.mark.parametrize(("key", "session_id"), [("call-2", None), ("call-1", "s-2"), ("s-1", None)])
async def test_what_was_not_asked_about_cannot_be_decided(
    manager: HITLManager, key: str, session_id: str | None
) -> None:
    """Neither an unknown call nor a call of another session."""
    await ask(manager)
    with pytest.raises(UnknownApproval, match=f"under {key}"):
        await manager.decide(key, "approve", decided_by="ann", session_id=session_id)


@pytest.mark.parametrize("sent", [{"key": "\0"}, {"session_id": "a\ud800"}, {"key": ""}, {"decision": "yes"}])
async def test_what_is_no_decision_changes_nothing(manager: HITLManager, sent: dict[str, Any]) -> None:
    """Ids that no database takes are no ids."""
    await ask(manager)
    with pytest.raises(InvalidDecision):
        await manager.decide(**{"key": "call-1", "decision": "approve", "decided_by": "ann", **sent})
    assert 1 == len(await manager.pending())


async def test_a_decision_belongs_to_the_turn_that_asked(
    manager: HITLManager, managers: Managers, clock: Clock
) -> None:
    """Whoever decides, in whatever turn of their own, and however much later."""
    approval = await ask(manager)
    clock.pass_by(200)
    elsewhere = EventBus()
    EventCorrelation.set_correlation_id(OTHER_TURN)
    EventCorrelation.set_causation_id("01890000-0000-7000-8000-00000000ffff")
    await managers.new(elsewhere).decide("call-1", "approve", decided_by="ann")
    event = stored(elsewhere)[-1]
    assert ("hitl_decision_made", TURN, request_event_id(approval.id)) == (
        event.event_type,
        event.correlation_id,
        event.causation_id,
    )


# -- time --------------------------------------------------------------------------------------------------------------


async def test_nobody_deciding_is_a_no(manager: HITLManager, managers: Managers, bus: EventBus, clock: Clock) -> None:
    """It is told once, however often and by however many it is noticed."""
    await ask(manager)
    other = managers.new(bus)
    clock.pass_by(299)
    await manager.sweep()
    assert ASKED == kinds(bus)
    clock.pass_by(1)
    await asyncio.gather(*(each.sweep() for each in (manager, other) * 5))
    expired = await manager.find("call-1")
    assert expired is not None
    assert ("expired", "timeout", expired.expires_at) == (expired.status, expired.decided_by, expired.decided_at)
    assert [*ASKED, "hitl_timeout_occurred"] == kinds(bus)


async def test_what_was_due_while_nobody_ran_expires_at_the_start(
    managers: Managers, clock: Clock, bus: EventBus
) -> None:
    """The one that is not due stays pending over the restart."""
    before = managers.new(bus)
    await ask(before)
    clock.pass_by(200)
    await ask(before, call_id="call-2")
    clock.pass_by(200)
    after = managers.new(bus)
    await after.start()
    await after.stop()
    assert ["call-2"] == [approval.call_id for approval in await after.pending()]
    assert [*ASKED, *ASKED, "hitl_timeout_occurred"] == kinds(bus)


async def test_the_loop_notices_a_deadline_by_itself(managers: Managers, clock: Clock, bus: EventBus) -> None:
    """And wakes who waits."""
    manager = managers.new(bus, poll_seconds=0.01)
    approval = await ask(manager)
    await manager.start()
    waiting = asyncio.create_task(manager.wait(approval.id))
    clock.pass_by(300)
    assert Status.EXPIRED == (await waiting).status
    await manager.stop()


@pytest.mark.parametrize("seconds", [0, -1, float("nan")])
def test_there_must_be_time_to_decide(seconds: float, managers: Managers, bus: EventBus) -> None:
    """A limit that can't be kept is refused when the manager is made."""
    with pytest.raises(ValueError, match="timeout_seconds"):
        managers.new(bus, timeout_seconds=seconds)


# -- waiting -----------------------------------------------------------------------------------------------------------


async def test_all_who_wait_are_woken_by_a_decision_here(manager: HITLManager) -> None:
    """Without the loop's help; who comes later does not wait."""
    approval = await ask(manager)
    waiting = [asyncio.create_task(manager.wait(approval.id)) for _ in range(3)]
    await asyncio.sleep(0)
    await manager.decide("call-1", "edit", modified_arguments={"path": "b"}, decided_by="ann")
    results = [*await asyncio.gather(*waiting), await manager.wait(approval.id)]
    assert [{"path": "b"}] * 4 == [result.granted_arguments() for result in results]


async def test_a_decision_elsewhere_wakes_who_waits_here(managers: Managers) -> None:
    """The loop finds it."""
    here, elsewhere = managers.new(EventBus(), poll_seconds=0.01), managers.new(EventBus())
    await here.start()
    approval = await ask(here)
    waiting = asyncio.create_task(here.wait(approval.id))
    await asyncio.sleep(0)
    await elsewhere.decide("call-1", "reject", feedback="no", decided_by="ann")
    assert (Status.REJECTED, "no") == ((await waiting).status, (await waiting).feedback)
    await here.stop()


async def test_nobody_waits_for_what_was_never_asked(manager: HITLManager) -> None:
    """It would be for ever."""
    with pytest.raises(UnknownApproval):
        await manager.wait("01890000-0000-7000-8000-000000000000")


async def test_stopping_lets_go_of_who_waits(managers: Managers) -> None:
    """The approval stays pending, for the next start."""
    manager = managers.new(EventBus())
    await manager.start()
    approval = await ask(manager)
    waiting = asyncio.create_task(manager.wait(approval.id))
    while not manager.waiting:
        await asyncio.sleep(0)
    await manager.stop()
    with pytest.raises(ManagerStopped):
        await waiting
    with pytest.raises(ManagerStopped):
        await manager.wait(approval.id)
    assert (["call-1"], 0) == ([pending.call_id for pending in await manager.pending()], manager.waiting)


async def test_who_gives_up_waiting_leaves_nothing_behind(manager: HITLManager) -> None:
    """A client that disconnects cancels its turn; the decision is taken all the same."""
    approval = await ask(manager)
    waiting = asyncio.create_task(manager.wait(approval.id))
    while not manager.waiting:
        await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait((waiting,))
    decided = await manager.decide("call-1", "approve", decided_by="ann")
    assert (0, Status.APPROVED) == (manager.waiting, decided.status)


def test_a_manager_needs_no_running_loop_to_be_made(managers: Managers) -> None:
    """It is wired before the service's loop starts."""
    assert 0 == managers.new(EventBus(MemoryStore())).waiting
