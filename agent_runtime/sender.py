"""Sending events to a service over HTTP, so that none is lost: what ``ingest`` and ``demo`` have in common."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import httpx

FIRST_PAUSE = 0.25
LONGEST_PAUSE = 5.0
AGAIN = frozenset({429, 502, 503, 504})


class NotSent(Exception):
    """The service can't be reached, or will not take what it is sent; the message says why."""


@dataclass(slots=True)
class Answer:
    """What became of the lines: counts, and ``(index, error)`` for each that was refused."""

    accepted: int = 0
    duplicates: int = 0
    rejected: list[tuple[int, str]] = field(default_factory=list)

    def add(self, other: Answer, offset: int) -> None:
        """Add an answer about lines that begin at ``offset``."""
        self.accepted += other.accepted
        self.duplicates += other.duplicates
        self.rejected += [(index + offset, error) for index, error in other.rejected]


class Sender:
    """Sends batches, and tries again while the service is away or busy.

    Args:
        client: an open client.
        url: of the service, without a path.
        key: ingest or admin key; None if the service has none.
        patience: seconds without any answer but "later" after which it gives up.
    """

    def __init__(self, client: httpx.AsyncClient, url: str, key: str | None = None, patience: float = 120.0) -> None:
        self._client = client
        self._url = f"{url.rstrip('/')}/events"
        self._headers = {"Content-Type": "application/x-ndjson"}
        if key:
            self._headers["X-Internal-Auth"] = key
        self._patience = patience

    async def send(self, lines: Sequence[bytes]) -> Answer:
        """Send one event a line; on return all of them are stored, known, or refused.

        A batch that was stored while its answer was lost is sent again: its events are then counted as duplicates,
        provided that they have an ``event_id``.

        Raises:
            NotSent: see there. It is not known what became of these lines.
        """
        response = await self._post(b"\n".join(lines))
        match response.status_code:
            case 202:
                body = response.json()
                rejected = [(row["index"], row["error"]) for row in body["rejected"]]
                return Answer(body["accepted"], body["duplicates"], rejected)
            case 413 if len(lines) > 1:
                half = len(lines) // 2
                answer = await self.send(lines[:half])
                answer.add(await self.send(lines[half:]), half)
                return answer
            case 400 | 413:
                return Answer(rejected=[(index, _error(response)) for index in range(len(lines))])
            case _:
                raise NotSent(f"{self._url} answered {response.status_code}: {_error(response)}")

    async def _post(self, body: bytes) -> httpx.Response:
        give_up = time.monotonic() + self._patience
        pause = FIRST_PAUSE
        while True:
            try:
                response = await self._client.post(self._url, content=body, headers=self._headers)
            except httpx.TransportError as error:
                reason, wait = f"{type(error).__name__} {error}".strip(), pause
            except httpx.InvalidURL as error:
                raise NotSent(f"{self._url} is no URL: {error}") from None
            else:
                if response.status_code not in AGAIN:
                    return response
                reason = f"{response.status_code}: {_error(response)}"
                wait = _retry_after(response) or pause
            if time.monotonic() + wait > give_up:
                raise NotSent(f"{self._url} took nothing for {self._patience:.0f} s: {reason}")
            # Senders that were turned away together must not come back together.
            await asyncio.sleep(wait * random.uniform(1.0, 1.25))
            pause = min(LONGEST_PAUSE, pause * 2)


def _retry_after(response: httpx.Response) -> float | None:
    value = response.headers.get("retry-after", "")
    return float(value) if value.isascii() and value.isdecimal() else None


def _error(response: httpx.Response) -> str:
    try:
        return str(response.json()["error"])
    except (ValueError, KeyError, TypeError):
        return response.reason_phrase or "no reason given"
