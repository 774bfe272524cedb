import asyncio
import gc
from dataclasses import dataclass

from agent_runtime.sessions.cache import Cache, Locks


@dataclass(eq=False)
class Entry:
    """Something that may have to be saved."""

    dirty: bool = False


def test_the_least_used_makes_room() -> None:
    """Reading counts as use."""
    cache: Cache[Entry] = Cache(2)
    first, second, third = Entry(), Entry(), Entry()
    cache.put("1", first)
    cache.put("2", second)
    cache.get("1")
    cache.put("3", third)
    assert [first, None, third] == [cache.get(key) for key in "123"]


def test_what_is_not_saved_is_never_dropped() -> None:
    """However many there are; once saved, they make room again."""
    cache: Cache[Entry] = Cache(2)
    entries = [Entry(dirty=True) for _ in range(10)]
    for number, entry in enumerate(entries):
        cache.put(str(number), entry)
    assert ([str(number) for number in range(10)], 10) == (cache.dirty(), len(cache))
    cache.drop("0", entries[0])
    assert entries[0] is cache.get("0")
    for entry in entries:
        entry.dirty = False
    cache.put("new", Entry())
    assert 2 == len(cache)


def test_only_the_entry_that_is_meant_is_dropped() -> None:
    """Another one may stand there by now."""
    cache: Cache[Entry] = Cache(2)
    old, new = Entry(), Entry()
    cache.put("1", old)
    cache.put("1", new)
    cache.drop("1", old)
    assert new is cache.get("1")
    cache.drop("1", new)
    assert cache.get("1") is None


async def test_a_lock_lives_as_long_as_someone_needs_it() -> None:
    """The same for all who come meanwhile; nothing stays behind."""
    locks = Locks()
    order: list[str] = []

    async def work(name: str) -> None:
        async with locks("s-1"):
            order.append(name)
            await asyncio.sleep(0)
            order.append(name)

    await asyncio.gather(*(work(name) for name in "abc"))
    assert list("aabbcc") == order
    gc.collect()
    assert 0 == len(locks)
