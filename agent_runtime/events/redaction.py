"""What secrets look like, by the name of their key and by their shape, and what stands for content that is not wanted.

Every repetition in an expression is bounded or runs to the end of its match: a text made to be slow costs no more than
a long one.
"""

from __future__ import annotations

import re
from functools import lru_cache
from hashlib import sha256
from itertools import pairwise
from typing import Any

import orjson

REDACTED = "[redacted]"
MAX_TEXT = 32_768
_MARK = 40

_SECRET_WORDS = frozenset(
    {
        *("password", "passwd", "pwd", "passphrase", "secret", "secrets", "token", "apikey"),
        *("authorization", "auth", "cookie", "credential", "credentials"),
    }
)
_SECRET_PAIRS = frozenset(
    (word, "key")
    for word in ("api", "access", "private", "encryption", "signing", "admin", "approver", "ingest", "read", "scrape")
)
# A token_count is no token.
_MEASURES = frozenset({"count", "counts", "length", "limit", "budget", "usage", "type"})
_WORDS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")

# Each shape with a literal that occurs in all that match: looking for the literal first costs a twentieth of it.
_SHAPES: tuple[tuple[str, re.Pattern[str]], ...] = tuple(
    (literal, re.compile(pattern))
    for literal, pattern in (
        (
            "-----BEGIN ",
            r"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY-----(?:[^-]|-(?!----))*"
            r"(?:-----END [A-Z0-9 ]{0,40}PRIVATE KEY-----)?",
        ),
        ("eyJ", r"\beyJ[\w-]{8,512}\.[\w-]{8,4096}\.[\w-]*"),
        ("sk-", r"\bsk-[\w-]{16,}"),
        ("sk_", r"\bsk_(?:live|test)_\w{16,}"),
        ("AKIA", r"\bAKIA[0-9A-Z]{16}\b"),
        ("ASIA", r"\bASIA[0-9A-Z]{16}\b"),
        ("AIza", r"\bAIza[\w-]{35}"),
        ("gh", r"\bgh[pousr]_[0-9A-Za-z]{30,}"),
        ("github_pat_", r"\bgithub_pat_\w{22,}"),
        ("glpat-", r"\bglpat-[\w-]{20,}"),
        ("hf_", r"\bhf_[0-9A-Za-z]{30,}"),
        ("xox", r"\bxox[a-z]-[\w-]{10,}"),
        ("earer ", r"(?<=\b[Bb]earer )[\w\-.~+/]{8,}=*"),
        ("asic ", r"(?<=\b[Bb]asic )[\w+/]{12,}={0,2}"),
        ("://", r"(?<=://)[^\s/:@]{0,128}:[^\s/@]{1,256}(?=@)"),
        ("=", r"(?i)(?<=[?&](?:key|pwd)=)[^\s&#\"']+|(?<=[?&]token=)[^\s&#\"']+|(?<=api_key=)[^\s&#\"']+"),
        ("=", r"(?i)(?<=password=)[^\s&#\"']+|(?<=x-internal-auth=)[^\s&#\"']+"),
        (":", r"(?i)(?<=x-internal-auth: )[^\s,\"']+"),
    )
)
_DIGEST = re.compile(r"sha256:[0-9a-f]{12}")


@lru_cache(maxsize=4096)
def is_secret_name(name: str) -> bool:
    """Whether what has this name is a secret: ``api_key``, ``userPassword``, ``X-Auth-Token``; not ``token_count``."""
    words = [word.lower() for word in _WORDS.findall(name)]
    if not words or words[-1] in _MEASURES:
        return False
    return not _SECRET_WORDS.isdisjoint(words) or not _SECRET_PAIRS.isdisjoint(pairwise(words))


def redact_text(text: str, limit: int = MAX_TEXT) -> str:
    """``text`` with whatever has the shape of a secret replaced, then cut to ``limit`` characters and marked as cut."""
    for literal, shape in _SHAPES:
        if literal in text:
            text = shape.sub(REDACTED, text)
    # With room for the mark itself, so that what was cut is not cut again.
    if len(text) > limit + _MARK:
        return f"{text[:limit]}… [cut: {len(text)} characters]"
    return text


def redact(key: str, value: Any, limit: int = MAX_TEXT) -> Any:
    """A JSON ``value``, which stands under ``key``, without secrets and texts longer than ``limit``, however deep."""
    if value is None or isinstance(value, bool):
        return value
    if is_secret_name(key):
        return REDACTED
    if isinstance(value, str):
        return redact_text(value, limit)
    if isinstance(value, dict):
        return {name: redact(str(name), item, limit) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [redact("", item, limit) for item in value]
    return value


def digest(value: Any) -> str:
    """``sha256:`` and the first 12 hex digits of the hash of ``value`` as canonical JSON (keys sorted, no spaces).

    A digest is its own digest, so that hiding twice changes nothing more.
    """
    if isinstance(value, str) and _DIGEST.fullmatch(value):
        return value
    return f"sha256:{sha256(orjson.dumps(value, option=orjson.OPT_SORT_KEYS)).hexdigest()[:12]}"


def hashed(value: Any) -> Any:
    """An object with its names as they are and each value as its ``digest``; anything else as one digest."""
    if isinstance(value, dict):
        return {name: digest(item) for name, item in value.items()}
    return digest(value)
