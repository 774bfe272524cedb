import asyncio
from collections import Counter

import pytest

from agent_runtime.events.event_bus import EventBus
from agent_runtime.hitl.errors import AlreadyDecided
from agent_runtime.hitl.manager import HITLManager
from agent_runtime.hitl.models import Approval
from tests.hitl.asking import Clock, Managers, ask, kinds, stored

APPROVALS, DECISIONS, PROCESSES = 50, 200, 4


async def test_of_200_decisions_at_once_one_is_taken(managers: Managers) -> None:
    """On each of 50 approvals, from four managers as four processes have them; the other 199 learn whose it was."""
    bus = EventBus()
    deciders = [managers.new(bus) for _ in range(PROCESSES)]
    asked = [await ask(deciders[0], call_id=f"call-{number}") for number in range(APPROVALS)]
    taken: dict[str, str] = {}
    told: Counter[tuple[str, str]] = Counter()

    async def decide(manager: HITLManager, approval: Approval, who: str) -> None:
        word = "approve" if int(who) % 3 else "reject"
        try:
            decided = await manager.decide(approval.call_id, word, decided_by=who, session_id="s-1")
        except AlreadyDecided as error:
            told[approval.id, error.decided_by] += 1
        else:
            assert approval.id not in taken
            assert who == decided.decided_by
            taken[approval.id] = who

    for approval in asked:
        crowd = (decide(deciders[who % PROCESSES], approval, str(who)) for who in range(DECISIONS))
        await asyncio.gather(*crowd)
    kept = {approval.id: (await deciders[0].get(approval.id)).decided_by for approval in asked}
    assert taken == kept
    assert {(approval.id, taken[approval.id]): DECISIONS - 1 for approval in asked} == told
    assert APPROVALS == kinds(bus).count("hitl_decision_made")


async def test_all_approvals_are_decided_at_once(managers: Managers) -> None:
    """The calls of one answer, each decided by ten people at the same moment."""
    bus = EventBus()
    deciders = [managers.new(bus) for _ in range(PROCESSES)]
    asked = [await ask(deciders[0], call_id=f"call-{number}") for number in range(APPROVALS)]
    results = await asyncio.gather(
        *(
            deciders[who % PROCESSES].decide(approval.id, "approve", decided_by=str(who))
            for approval in asked
            for who in range(10)
        ),
        return_exceptions=True,
    )
    assert {Approval: APPROVALS, AlreadyDecided: APPROVALS * 9} == Counter(type(result) for result in results)


@pytest.mark.parametrize("word", ["approve", "reject"])
async def test_a_decision_and_a_deadline_are_not_both_told(managers: Managers, clock: Clock, word: str) -> None:
    """Whatever comes first, an approval ends once."""
    bus = EventBus()
    deciders = [managers.new(bus) for _ in range(PROCESSES)]
    asked = [await ask(deciders[0], call_id=f"call-{number}") for number in range(APPROVALS)]

    async def expire() -> None:
        await asyncio.sleep(0)
        clock.pass_by(300)
        await asyncio.gather(*(manager.sweep() for manager in deciders))

    await asyncio.gather(
        *(deciders[n % PROCESSES].decide(approval.id, word, decided_by="a") for n, approval in enumerate(asked)),
        expire(),
        return_exceptions=True,
    )
    await deciders[0].sweep()
    ends = Counter(
        e.data["call_id"] for e in stored(bus) if e.event_type in ("hitl_decision_made", "hitl_timeout_occurred")
    )
    assert {approval.call_id: 1 for approval in asked} == ends


async def test_a_call_that_is_asked_about_at_once_is_asked_about_once(managers: Managers) -> None:
    """From several processes: one approval, its events once."""
    bus = EventBus()
    asked = await asyncio.gather(*(ask(managers.new(bus)) for _ in range(8)))
    assert 1 == len({approval.id for approval in asked})
    assert ["tool_approval_required", "hitl_approval_requested"] == kinds(bus)
