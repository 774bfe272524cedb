"""What every test begins with."""

from collections.abc import Iterator

import pytest

from agent_runtime.events.correlation import NO_CONTEXT, current


@pytest.fixture(autouse=True)
def no_turn() -> Iterator[None]:
    """No correlation id and no cause are left behind for the next test."""
    token = current.set(NO_CONTEXT)
    yield
    current.reset(token)
