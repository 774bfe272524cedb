import asyncio

from agent_runtime.events.subscribers.timer_writer import TimerWriter


class Shelf:
    """Sessions, and which of them have changed."""

    def __init__(self, *changed: str) -> None:
        self.changed = dict.fromkeys(changed)
        self.saved: list[str] = []
        self.failing = 0

    def dirty(self) -> list[str]:
        """The changed ones."""
        return list(self.changed)

    async def save(self, session_id: str) -> None:
        """Makes one durable."""
        await asyncio.sleep(0)
        if self.failing > 0:
            self.failing -= 1
            raise OSError("the disk is full")
        del self.changed[session_id]
        self.saved.append(session_id)


async def test_whatever_has_changed_is_saved() -> None:
    """From every source, once."""
    sessions, contexts = Shelf("s-1", "s-2"), Shelf("s-1")
    writer = TimerWriter([(sessions.dirty, sessions.save), (contexts.dirty, contexts.save)])
    assert 3 == writer.pending
    assert (3, 0) == (await writer.flush(), await writer.flush())
    assert (["s-1", "s-2"], ["s-1"], 0) == (sessions.saved, contexts.saved, writer.pending)


async def test_120_sessions_are_all_saved_at_the_end_though_some_fail() -> None:
    """What failed has still changed, and is tried again."""
    shelf = Shelf(*(f"s-{number}" for number in range(120)))
    shelf.failing = 70
    writer = TimerWriter([(shelf.dirty, shelf.save)])
    writer.start()
    assert 0 == await writer.stop()
    assert sorted(f"s-{number}" for number in range(120)) == sorted(shelf.saved)


async def test_it_saves_by_itself() -> None:
    """Again and again, also when something fails, until it is stopped."""
    shelf = Shelf("s-1")
    shelf.failing = 2
    writer = TimerWriter([(shelf.dirty, shelf.save)], every_seconds=0.01)
    writer.start()
    async with asyncio.timeout(10):
        while shelf.changed:
            await asyncio.sleep(0.01)
        shelf.changed["s-2"] = None
        while shelf.changed:
            await asyncio.sleep(0.01)
    assert 0 == await writer.stop()
    assert ["s-1", "s-2"] == shelf.saved


async def test_a_source_that_raises_does_not_end_it() -> None:
    """The next time it may answer again."""
    shelf = Shelf("s-1")
    asked = 0

    def dirty() -> list[str]:
        nonlocal asked
        asked += 1
        if asked == 1:
            raise RuntimeError("not now")
        return shelf.dirty()

    writer = TimerWriter([(dirty, shelf.save)], every_seconds=0.01)
    writer.start()
    async with asyncio.timeout(10):
        while shelf.changed:
            await asyncio.sleep(0.01)
    assert 0 == await writer.stop()
