"""Every exception of sessions.

SessionsError
├── InvalidSession (also ValueError)  an id, a message or a command that can't be kept as it is
├── UnknownSession (also LookupError) there is no session of that id
├── SessionExists                     there is one already
├── SessionEnded                      it was deleted, or it expired: it takes no more
├── TooManySwitches                   its agents have passed it around often enough
└── DatabaseUnavailable               the database does not answer; nothing is known to have been written
"""

from __future__ import annotations


class SessionsError(Exception):
    """Base of all errors that sessions raise."""


class InvalidSession(SessionsError, ValueError):
    """What was wrong and where.

    Args:
        where: the offending value, such as ``session_id`` or ``message.role``.
        what: what was expected and what was found.
    """

    def __init__(self, where: str, what: str) -> None:
        super().__init__(f"{where}: {what}")


class UnknownSession(SessionsError, LookupError):
    """There is no session of that id."""

    def __init__(self, session_id: str) -> None:
        self.session_id = session_id
        super().__init__(f"there is no session {session_id}")


class SessionExists(SessionsError):
    """A session of that id exists already, alive or ended."""

    def __init__(self, session_id: str) -> None:
        self.session_id = session_id
        super().__init__(f"session {session_id} exists already")


class SessionEnded(SessionsError):
    """The session takes no more messages.

    Args:
        reason: ``deleted`` or ``expired``.
    """

    def __init__(self, session_id: str, reason: str) -> None:
        self.session_id = session_id
        self.reason = reason
        super().__init__(f"session {session_id} has {'expired' if reason == 'expired' else 'been deleted'}")


class TooManySwitches(SessionsError):
    """The session has been passed from agent to agent as often as it may."""

    def __init__(self, session_id: str, limit: int) -> None:
        self.session_id = session_id
        super().__init__(f"session {session_id} has been switched {limit} times, the limit")


class DatabaseUnavailable(SessionsError):
    """The database could not be reached or did not answer in time; the cause is chained."""
