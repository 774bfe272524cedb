"""People for the demo: users who talk to a running service, and somebody who answers what it asks."""

from __future__ import annotations

import asyncio
import itertools
import random
import uuid
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, TypeVar

import httpx

T = TypeVar("T")

USUAL_RATE = 6.0
POLL_SECONDS = 2.0
LONGEST_SECONDS = 90.0

# What users say, a session a row. The scripted model has a scene, or a failure, for each.
SESSIONS: tuple[tuple[str, ...], ...] = (
    ("Write slugs.py, which turns titles into slugs", "Now run the tests"),
    ("Why would a retry need jitter?", "How do I choose the base delay?"),
    ("There is a bug in parser.py, it crashes on empty input; please fix it",),
    ("Design the architecture of a job queue and build it", "Add a folder called examples"),
    ("What does the code in helpers.py do?", "Simulate a rate limit", "What does the code in helpers.py do?"),
    ("The import of report.md is broken, find the error",),
    ("Design the structure of a plugin system in docs/plugins.md",),
    ("Explain the modules of this project", "Write their names into notes.md"),
    ("Simulate an outage", "Explain what an error budget is"),
    ("Create settings.toml with sensible defaults", "Simulate a timeout", "Run it"),
)
GOODBYE = "Thanks, that is all."

# How people decide; None is nobody looking until it is too late.
DECISIONS: tuple[str | None, ...] = (*("approve",) * 7, *("edit",) * 2, "reject", "feedback", None)
FEEDBACK = "Not like this: keep it smaller, please."
LEAVES_EARLY = (*(False,) * 19, True)


class Deck(Generic[T]):
    """Draws at random, but like cards: the shares hold in a short run too."""

    def __init__(self, cards: Sequence[T], chance: random.Random) -> None:
        self._cards = cards
        self._chance = chance
        self._left: list[T] = []

    def draw(self) -> T:
        """The next card; after the last one all are shuffled again."""
        if not self._left:
            self._left = self._chance.sample(self._cards, len(self._cards))
        return self._left.pop()


class LiveSessions:
    """Plays sessions over HTTP, with people's pauses, and decides about approvals.

    Args:
        client: an open client.
        url: of the service, in runtime mode.
        key: admin key, if the service has keys.
        rate: sessions begun a minute, more than 0. Above the usual 6 the people are faster in the same measure.
        progress: called with a sentence whenever something has happened.
        seed: of what is left to chance.
    """

    def __init__(
        self,
        client: httpx.AsyncClient,
        url: str,
        key: str | None,
        *,
        rate: float,
        progress: Callable[[str], None],
        seed: int | None = None,
    ) -> None:
        self._client = client
        self._url = url
        self._headers = {"X-Internal-Auth": key} if key else {}
        self._rate = rate
        self._pace = min(1.0, USUAL_RATE / rate)
        self._progress = progress
        self._chance = random.Random(seed)
        self._decisions = Deck(DECISIONS, self._chance)
        self._leaves_early = Deck(LEAVES_EARLY, self._chance)
        self._counts: Counter[str] = Counter()

    async def play(self, sessions: int | None = None) -> None:
        """Play that many sessions, to their ends; without a number until cancelled."""
        approving = asyncio.create_task(self._approve())
        try:
            async with asyncio.TaskGroup() as playing:
                for number, messages in enumerate(itertools.cycle(SESSIONS)):
                    if number == sessions:
                        break
                    if number:
                        await asyncio.sleep(self._chance.expovariate(self._rate / 60))
                    playing.create_task(self._session(messages))
        finally:
            approving.cancel()
            await asyncio.wait((approving,))

    def summary(self) -> str:
        """What has happened so far."""
        counts = self._counts
        return (
            f"{counts['sessions']} sessions, {counts['messages']} messages, {counts['errors']} errors; "
            f"{counts['approve']} approved, {counts['edit']} edited, {counts['reject'] + counts['feedback']} rejected, "
            f"{counts['nobody']} left alone"
        )

    def _count(self, what: str) -> None:
        self._counts[what] += 1
        self._progress(self.summary())

    # -- users ---------------------------------------------------------------------------------------------------------

    async def _session(self, messages: Sequence[str]) -> None:
        session_id = f"demo-{uuid.uuid4().hex[:12]}"
        self._count("sessions")
        try:
            for message in (*messages, GOODBYE):
                await self._say(session_id, message)
                await self._pause(4.0)
            await self._client.delete(f"{self._url}/sessions/{session_id}", headers=self._headers)
        except httpx.HTTPError:
            # The service stops, or is too busy: its metrics are the place to look.
            self._count("errors")

    async def _say(self, session_id: str, message: str) -> None:
        """Send a message as soon as the session is free, and read what follows, most times to its end."""
        body = {"session_id": session_id, "message": {"type": "user_message", "content": message}}
        request = ("POST", f"{self._url}/agent/message/stream")
        while True:
            async with self._client.stream(*request, json=body, headers=self._headers) as response:
                if response.status_code != httpx.codes.CONFLICT:
                    response.raise_for_status()
                    self._count("messages")
                    await self._read(response)
                    return
            await asyncio.sleep(max(0.1, POLL_SECONDS * self._pace))

    async def _read(self, response: httpx.Response) -> None:
        patience = self._chance.randint(5, 30) if self._leaves_early.draw() else None
        number = 0
        async for line in response.aiter_lines():
            number += 1
            if line == "event: error":
                self._count("errors")
            if number == patience:
                return

    # -- whoever approves ----------------------------------------------------------------------------------------------

    async def _approve(self) -> None:
        """Look for what waits, again and again, and decide about each call in a person's time."""
        deciding: dict[str, asyncio.Task[None]] = {}
        try:
            while True:
                await asyncio.sleep(max(0.1, POLL_SECONDS * self._pace))
                waiting = {row["id"]: row for row in await self._pending()}
                for approval_id in waiting.keys() - deciding.keys():
                    deciding[approval_id] = asyncio.create_task(self._decide(waiting[approval_id]))
                for approval_id in [known for known, task in deciding.items() if task.done() and known not in waiting]:
                    del deciding[approval_id]
        finally:
            for task in deciding.values():
                task.cancel()

    async def _pending(self) -> list[dict[str, Any]]:
        try:
            response = await self._client.get(f"{self._url}/approvals", headers=self._headers)
            response.raise_for_status()
        except httpx.HTTPError:
            return []
        rows: list[dict[str, Any]] = response.json()["approvals"]
        return rows

    async def _decide(self, approval: Mapping[str, Any]) -> None:
        decision = self._decisions.draw()
        if decision is None:
            self._count("nobody")
            return
        body = decision_body(decision, approval)
        await self._pause(8.0)
        try:
            url = f"{self._url}/approvals/{approval['id']}/decision"
            response = await self._client.post(url, json=body, headers=self._headers)
        except httpx.HTTPError:
            return
        self._count(body["decision"] if response.is_success else "too late")

    async def _pause(self, usual_seconds: float) -> None:
        """A person's time: mostly about as long as usual, now and then several times that."""
        seconds = usual_seconds * self._chance.lognormvariate(0.0, 0.8)
        await asyncio.sleep(min(seconds, LONGEST_SECONDS) * self._pace)


def decision_body(decision: str, approval: Mapping[str, Any]) -> dict[str, Any]:
    """The body of a decision about an approval; where there is nothing to edit, an edit is an approval."""
    body: dict[str, Any] = {"decision": decision, "arguments_hash": approval["arguments_hash"]}
    arguments = approval["arguments"]
    if decision == "feedback":
        body["feedback"] = FEEDBACK
    elif decision == "edit" and approval["tool_name"] == "write_file":
        body["modified_arguments"] = {**arguments, "content": f"{arguments['content']}\n# Read by a person.\n"}
    elif decision == "edit" and approval["tool_name"] == "execute_command":
        body["modified_arguments"] = {**arguments, "command": "ls"}
    elif decision == "edit":
        body["decision"] = "approve"
    return body
