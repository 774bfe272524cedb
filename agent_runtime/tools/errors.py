"""The one exception of this floor."""

from __future__ import annotations


class ToolError(Exception):
    """A tool could not do what it was asked to.

    Args:
        error_type: short and from a small set, such as ``not_found``: it becomes a label.
        what: what went wrong, in words of ours. It goes into an event, so nothing of the arguments or of a file may
            stand in it.
        where: which argument, path or file; only the model reads it.
        content: what the model reads instead of both; a command's output, for instance.
    """

    def __init__(self, error_type: str, what: str, *, where: str = "", content: str = "") -> None:
        self.error_type = error_type
        self.what = what
        self.content = content or (f"{where}: {what}" if where else what)
        super().__init__(self.content)
