import pytest
from sqlalchemy import inspect

from agent_runtime.hitl.arguments import arguments_hash
from agent_runtime.hitl.decisions import Status
from agent_runtime.hitl.errors import ArgumentsMismatch, HITLError
from agent_runtime.hitl.models import Approval
from agent_runtime.sessions.database import Database


def approval(status: Status, **changes: object) -> Approval:
    """A row of that status, in memory."""
    asked = {"path": "a.txt"}
    columns: dict[str, object] = {"arguments": asked, "arguments_hash": arguments_hash(asked), "call_id": "c"}
    return Approval(status=status, **{**columns, **changes})


def test_an_approved_call_runs_with_what_was_asked_about() -> None:
    """Nothing is added."""
    assert {"path": "a.txt"} == approval(Status.APPROVED).granted_arguments()


def test_an_edited_call_runs_with_what_the_person_made_of_it() -> None:
    """An empty object counts."""
    assert {} == approval(Status.EDITED, modified_arguments={}).granted_arguments()


@pytest.mark.parametrize("status", [Status.PENDING, Status.REJECTED, Status.EXPIRED])
def test_no_other_call_runs(status: Status) -> None:
    """Whoever forgets to look at the status gets an error, not arguments."""
    with pytest.raises(HITLError, match=f"its approval is {status}"):
        approval(status).granted_arguments()


def test_arguments_that_were_changed_behind_the_approval_do_not_run() -> None:
    """An approval is of the arguments that had this hash."""
    with pytest.raises(ArgumentsMismatch, match="have changed since"):
        approval(Status.APPROVED, arguments={"path": "/etc/passwd"}).granted_arguments()


async def test_the_migrations_make_this_table(url: str) -> None:
    """Columns and indexes of the class are those of the database."""
    database = Database(url)
    async with database.read() as session:
        connection = await session.connection()
        columns = await connection.run_sync(lambda c: {col["name"] for col in inspect(c).get_columns("approvals")})
        indexes = await connection.run_sync(lambda c: {index["name"] for index in inspect(c).get_indexes("approvals")})
    await database.close()
    table = Approval.metadata.tables["approvals"]
    assert {column.name for column in table.columns} == columns
    assert {index.name for index in table.indexes} == indexes
