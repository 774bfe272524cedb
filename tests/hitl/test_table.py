from collections.abc import AsyncIterator
from datetime import timedelta

import pytest

from agent_runtime.hitl.decisions import Decision, Status
from agent_runtime.hitl.manager import HITLManager
from agent_runtime.hitl.table import ApprovalTable
from agent_runtime.sessions.database import Database
from tests.hitl.asking import Clock, ask

YES = Decision(Status.APPROVED, None, None)
NO = Decision(Status.REJECTED, None, "no")


@pytest.fixture
async def table(url: str) -> AsyncIterator[ApprovalTable]:
    """With connections of its own."""
    database = Database(url)
    yield ApprovalTable(database)
    await database.close()


async def test_a_decision_that_was_overtaken_is_not_taken(
    table: ApprovalTable, manager: HITLManager, clock: Clock
) -> None:
    """Two read the same pending row; the second to write changes nothing, and is shown the row as it is."""
    asked = await ask(manager)
    first, first_taken = await table.decide(asked, NO, "ann", clock.moment)
    second, second_taken = await table.decide(asked, YES, "bob", clock.moment)
    assert first is not None and second is not None
    assert (True, "rejected", "ann") == (first_taken, first.status, first.decided_by)
    assert (False, "rejected", "ann", "no") == (second_taken, second.status, second.decided_by, second.feedback)


@pytest.mark.parametrize(("seconds", "taken"), [(299.999999, True), (300, False)])
async def test_a_deadline_that_passes_in_between_is_kept(
    table: ApprovalTable, manager: HITLManager, seconds: float, taken: bool
) -> None:
    """It is the write that counts, not the read before it."""
    asked = await ask(manager)
    row, was_taken = await table.decide(asked, YES, "ann", asked.requested_at + timedelta(seconds=seconds))
    assert row is not None
    assert (taken, "approved" if taken else "pending") == (was_taken, row.status)


async def test_a_row_with_other_arguments_than_were_read_is_not_decided(
    table: ApprovalTable, manager: HITLManager, clock: Clock
) -> None:
    """The write is bound to the hash."""
    asked = await ask(manager)
    asked.arguments_hash = "0" * 64
    assert False is (await table.decide(asked, YES, "ann", clock.moment))[1]


async def test_an_announcement_of_an_earlier_state_leaves_the_row_in_the_outbox(
    table: ApprovalTable, manager: HITLManager, clock: Clock
) -> None:
    """Who told the question, slowly, has not told the decision that came meanwhile."""
    asked = await ask(manager)
    decided, _ = await table.decide(asked, YES, "ann", clock.moment)
    assert decided is not None
    await table.mark_announced(asked)
    assert [asked.id] == [approval.id for approval in await table.unannounced("", 10)]
    assert [] == await table.settled([asked.id])
    await table.mark_announced(decided)
    await table.mark_announced(asked)
    assert [] == await table.unannounced("", 10)
