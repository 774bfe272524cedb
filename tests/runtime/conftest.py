"""A model's endpoint and a backend for spans, each a process that the tests of a module share."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.openai_fixture import OpenAIServer
from tests.otlp_fixture import OtlpReceiver


@pytest.fixture(scope="module")
def model() -> Iterator[OpenAIServer]:
    """An OpenAI-compatible endpoint."""
    with OpenAIServer() as server:
        yield server


@pytest.fixture
def otlp(tmp_path: Path) -> Iterator[OtlpReceiver]:
    """A backend for spans."""
    with OtlpReceiver(tmp_path) as receiver:
        yield receiver
