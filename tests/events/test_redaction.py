from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_runtime.events.redaction import MAX_TEXT, digest, hashed, is_secret_name, redact, redact_text


@pytest.mark.parametrize(
    "name",
    [
        "password",
        "userPassword",
        "api_key",
        "apiKey",
        "X-API-Key",
        "INTERNAL_API_KEY",
        "access_token",
        "X-Internal-Auth",
        "Authorization",
        "client_secret",
        "Cookie",
        "ingest_key",
        "aws_secret_access_key",
        "private_key",
        "credentials",
    ],
)
def test_secret_names(name: str) -> None:
    """What stands under such a name is never shown."""
    assert is_secret_name(name)


@pytest.mark.parametrize(
    "name",
    [
        "prompt_tokens",
        "total_tokens",
        "token_count",
        "token_limit",
        "key",
        "path",
        "author",
        "tokenizer",
        "keyboard",
        "",
        "completion_tokens",
        "cached_tokens",
        "agent",
        "call_id",
    ],
)
def test_names_that_are_no_secrets(name: str) -> None:
    """Counts of tokens, above all, are what this service is about."""
    assert not is_secret_name(name)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("key sk-abcdefghijklmnopqrst.", "key [redacted]."),
        ("sk-proj-AbCd_1234567890-xyz", "[redacted]"),
        ("sk_live_abcdefghijklmnop12", "[redacted]"),
        ("Authorization: Bearer abc.def-123", "Authorization: Bearer [redacted]"),
        ("AKIAIOSFODNN7EXAMPLE", "[redacted]"),
        ("ghp_" + "a1" * 18, "[redacted]"),
        ("xoxb-1234567890-abc", "[redacted]"),
        ("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl", "[redacted]"),
        ("postgresql://me:pw@db/events", "postgresql://[redacted]@db/events"),
        ("GET /x?token=abc&page=2", "GET /x?token=[redacted]&page=2"),
        ("-----BEGIN RSA PRIVATE KEY-----\nabc\n-----END RSA PRIVATE KEY-----\nrest", "[redacted]\nrest"),
        ("x-internal-auth: abcdef", "x-internal-auth: [redacted]"),
    ],
)
def test_shapes_of_secrets(text: str, shown: str) -> None:
    """The secret goes, what stands around it stays."""
    assert redact_text(text) == shown


@pytest.mark.parametrize(
    "text",
    [
        "ask-someone-who-knows",
        "a task-oriented-conversation",
        "http://host:8001/events",
        "unexpected token: identifier",
    ],
)
def test_plain_text_stays(text: str) -> None:
    """Prose and plain addresses are not secrets."""
    assert redact_text(text) == text


def test_values_are_redacted_however_deep() -> None:
    """By name and by shape; what is neither stays as it is, and the original is not touched."""
    value = {"a": [{"password": "x", "n": 1}], "token": {"deep": "y"}, "ok": None, "flag": True, "f": 1.5}
    assert redact("", value) == {
        "a": [{"password": "[redacted]", "n": 1}],
        "token": "[redacted]",
        "ok": None,
        "flag": True,
        "f": 1.5,
    }
    assert value["token"] == {"deep": "y"}


def test_long_texts_are_cut_and_say_so() -> None:
    """A reader sees that something is missing, and how much there was; cutting again changes nothing."""
    cut = redact_text("x" * 40_000)
    assert cut == "x" * MAX_TEXT + "… [cut: 40000 characters]"
    assert redact_text(cut) == cut
    assert redact("k", "a" * 100, limit=3) == "aaa… [cut: 100 characters]"
    assert redact_text("x" * MAX_TEXT) == "x" * MAX_TEXT


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=20,
)


@given(json_values)
def test_a_digest_says_nothing_but_sameness(value: Any) -> None:
    """Equal values have equal digests, of fixed shape, and a digest is its own digest."""
    assert len(digest(value)) == len("sha256:") + 12
    assert digest(digest(value)) == digest(value)


@given(json_values)
def test_redacting_twice_changes_nothing_more(value: Any) -> None:
    """So it does not matter how many hands a value passes through."""
    once = redact("", value)
    assert redact("", once) == once


def test_hashed_keeps_names_only() -> None:
    """The order of keys within a value does not matter; a value that is no object is one digest."""
    assert hashed({"a": {"x": 1, "y": 2}}) == hashed({"a": {"y": 2, "x": 1}})
    assert list(hashed({"path": "x", "n": 2})) == ["path", "n"]
    assert hashed("text") == digest("text")


@pytest.mark.parametrize(
    "unit", ["sk-", "eyJ", "eyJ-", "://", "://a:", "-----BEGIN ", "token=", "Bearer ", "gh", "aaaaaaa"]
)
def test_hostile_texts_cost_no_more_than_long_ones(unit: str) -> None:
    """A megabyte made to be slow comes out, cut; an expression that backtracks would still be at it tomorrow."""
    assert len(redact_text(unit * (1_000_000 // len(unit)))) < MAX_TEXT + 100
