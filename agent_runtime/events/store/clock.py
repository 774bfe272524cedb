"""The clock of a store: recording times that never decrease, and watermarks that hold."""

from __future__ import annotations

import threading
import time


class RecordingClock:
    """Gives each commit its time, and tells up to which time everything is committed.

    A commit that is under way holds the watermark just below its own time; a watermark once told is a floor for all
    later commits.
    """

    def __init__(self, floor_ns: int = 0, position: int = 0) -> None:
        self._lock = threading.Lock()
        self._floor = floor_ns
        self._position = position
        self._under_way = 0

    def begin(self) -> int:
        """The recording time of a commit that starts now; ``end`` must follow."""
        with self._lock:
            self._under_way = max(time.time_ns(), self._floor + 1)
            self._floor = self._under_way
            return self._under_way

    def end(self, position: int) -> None:
        """The commit has ended, and ``position`` is the last one stored."""
        with self._lock:
            self._under_way = 0
            self._position = position

    def watermark(self) -> tuple[int, int]:
        """See ``EventStore.watermark``."""
        with self._lock:
            if self._under_way:
                return self._position, self._under_way - 1
            self._floor = max(time.time_ns(), self._floor)
            return self._position, self._floor
