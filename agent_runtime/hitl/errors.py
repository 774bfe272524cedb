"""Every exception of people in the loop.

HITLError
├── InvalidDecision (also ValueError)   what was said is no decision
├── UnknownApproval (also LookupError)  nothing of that id was asked for
├── CallPending                         that call id is pending already, with another call
├── AmbiguousCall                       several sessions wait under that call id
├── ArgumentsMismatch                   the decision is about other arguments than were asked for
├── AlreadyDecided                      someone was faster
├── ApprovalExpired                     the time was up
└── ManagerStopped                      nobody will wake who waits
"""

from __future__ import annotations

from datetime import datetime


class HITLError(Exception):
    """Base of all errors about approvals."""


class InvalidDecision(HITLError, ValueError):
    """A decision that can't be taken as it is; the message says what was expected."""


class UnknownApproval(HITLError, LookupError):
    """No approval goes by that id, or by that call id in that session."""


class CallPending(HITLError):
    """A model used a call id again, for another call, while the first still waits for its decision."""


class AmbiguousCall(HITLError):
    """Several sessions wait for a decision under that call id: the session, or the approval's id, must be given."""


class ArgumentsMismatch(HITLError):
    """The hash that came with a decision is not the hash of the arguments that are waiting."""


class AlreadyDecided(HITLError):
    """Another decision was first.

    Args:
        status: what it was: approved, edited, rejected.
        decided_by, decided_at: whose it was, and when.
    """

    def __init__(self, status: str, decided_by: str, decided_at: datetime) -> None:
        self.status = status
        self.decided_by = decided_by
        self.decided_at = decided_at
        moment = decided_at.isoformat(timespec="microseconds").replace("+00:00", "Z")
        super().__init__(f"already {status} by {decided_by} at {moment}")


class ApprovalExpired(HITLError):
    """The time to decide ended at ``expired_at``; the call was refused then."""

    def __init__(self, expired_at: datetime) -> None:
        self.expired_at = expired_at
        moment = expired_at.isoformat(timespec="microseconds").replace("+00:00", "Z")
        super().__init__(f"expired at {moment}: the call was refused")


class ManagerStopped(HITLError):
    """The manager stops; the approval stays as it is."""
