"""A bound on the memory that threads of one process take together."""

import contextlib
import os
import threading
from collections.abc import Iterator


class Taken:
    """What one thread holds of a Room."""

    def __init__(self, room: "Room", size: int):
        self.room, self.size = room, size

    def grow(self, size: int) -> bool:
        """Hold `size` bytes from now on, if they are there; does not wait, so that no two wait for each other."""
        with self.room.changed:
            used = self.room.used - self.size
            if size > self.size and not self.room.fits(size, used):
                return False
            self.room.used, self.size = used + size, size
            self.room.changed.notify_all()
            return True


class Room:
    """At most `limit` bytes are held at any moment; what is larger than that alone is held by itself."""

    def __init__(self, limit: int):
        self.limit = limit
        self._empty()
        # A child has one thread: what others held when it was forked would never be given back.
        os.register_at_fork(after_in_child=self._empty)

    def _empty(self) -> None:
        self.used = 0
        self.changed = threading.Condition()

    def fits(self, size: int, used: int) -> bool:
        return used == 0 or used + size <= self.limit

    @contextlib.contextmanager
    def take(self, size: int) -> Iterator[Taken]:
        """Wait until there are `size` bytes, and hold them in the block."""
        with self.changed:
            self.changed.wait_for(lambda: self.fits(size, self.used))
            self.used += size
        taken = Taken(self, size)
        try:
            yield taken
        finally:
            with self.changed:
                self.used -= taken.size
                self.changed.notify_all()
