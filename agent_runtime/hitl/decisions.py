"""What a person may say about a call, in any case, and what becomes of it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from agent_runtime.events.errors import InvalidEvent
from agent_runtime.events.fields import check_object, json_name
from agent_runtime.hitl.arguments import plain_object
from agent_runtime.hitl.errors import InvalidDecision


class Status(StrEnum):
    """Where an approval stands. All but ``PENDING`` are final; only ``APPROVED`` and ``EDITED`` let the call run."""

    PENDING = "pending"
    APPROVED = "approved"
    EDITED = "edited"
    REJECTED = "rejected"
    EXPIRED = "expired"


# ``feedback`` says no by saying what to do instead.
STATUS_OF = {
    "approve": Status.APPROVED,
    "edit": Status.EDITED,
    "reject": Status.REJECTED,
    "feedback": Status.REJECTED,
}
# How ``hitl_decision_made`` tells it.
WORD_OF = {Status.APPROVED: "APPROVE", Status.EDITED: "EDIT", Status.REJECTED: "REJECT"}


@dataclass(frozen=True, slots=True)
class Decision:
    """A decision that can be taken: where it leads, with which arguments, and what the person has to say."""

    status: Status
    modified_arguments: dict[str, Any] | None
    feedback: str | None


def read_decision(decision: object, modified_arguments: object = None, feedback: object = None) -> Decision:
    """The decision that someone sent.

    Args:
        decision: approve, edit, reject or feedback, in any case.
        modified_arguments: an object; needed by ``edit``, and by nothing else.
        feedback: text for the model; needed by ``feedback``, welcome with any other.

    Raises:
        InvalidDecision: says what was expected.
    """
    word = decision.strip().lower() if isinstance(decision, str) else ""
    status = STATUS_OF.get(word)
    if status is None:
        raise InvalidDecision(f"decision: must be one of {', '.join(STATUS_OF)}, got {_shown(decision)}")
    if feedback is not None and not isinstance(feedback, str):
        raise InvalidDecision(f"feedback: expected a string, got {json_name(feedback)}")
    if word == "feedback" and not (feedback or "").strip():
        raise InvalidDecision("feedback: is required, the model should know what to do instead")
    if status is Status.EDITED and modified_arguments is None:
        raise InvalidDecision("modified_arguments: is required, an edit says what the call should have been")
    if status is not Status.EDITED and modified_arguments is not None:
        raise InvalidDecision(f"modified_arguments: can't go with {word}; to change the arguments, edit")
    try:
        check_object({"feedback": feedback}, "decision")
        modified = None if modified_arguments is None else plain_object(modified_arguments, "modified_arguments")
    except InvalidEvent as error:
        raise InvalidDecision(str(error)) from None
    return Decision(status, modified, feedback or None)


def _shown(value: object) -> str:
    if not isinstance(value, str):
        return json_name(value)
    return repr(value if len(value) <= 80 else f"{value[:80]}…")
