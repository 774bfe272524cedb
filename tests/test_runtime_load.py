"""Runtime mode under many streams at once, of which a third are left in the middle."""

from pathlib import Path

from benchmarks.runtime_load import Load, RuntimeProcess, without_end

USERS, SECONDS = 60, 10.0


def test_many_streams(tmp_path: Path) -> None:
    """Each stream ends or is left, nothing leaks, whatever begins has an end, and a stream is one HTTP span."""
    with RuntimeProcess(tmp_path, delay_seconds=0.02) as server:
        before = server.probe()
        load = Load(server, USERS, SECONDS)
        load.run()
        assert {} == server.leaked(before["tasks"])
        after = server.probe()
    assert {"done", "left", "error"} == set(load.seen) - {"409"}
    assert load.seen["done"] > USERS
    assert 1 <= after["most_spans"] <= 2
    assert [] == without_end(server.events())
    assert "Failed to detach" not in server.log
    assert "Traceback" not in server.log
    assert load.resident_mb[-1] < load.resident_mb[0] + 100
