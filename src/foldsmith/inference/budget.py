"""Time: what a run may take, what the rest of it will take, and what to leave out when that is too much.

When not everything fits, views go first, those of the last members before those of the first; then members, the last
first. The order of members is the ensemble file's.
"""

import math
import os
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from foldsmith.errors import UserError

RESERVE = 1.05  # predicted times are taken for that much longer


class DeadlineReached(Exception):
    """No other batch can be finished in time."""


class Budget:
    """The time that a run may take.

    Args:
        seconds: from `started` on; None: no limit.
        started: in the clock's time; None: now.
        clock: seconds, such as time.monotonic; tests bring their own.
    """

    def __init__(
        self, seconds: float | None, started: float | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.clock = clock
        self.end = math.inf if seconds is None else (clock() if started is None else started) + seconds
        self.reserve = 0.0  # seconds that writing the result takes

    @property
    def left(self) -> float:
        """Seconds that may be worked before the result is written; below 0 after the deadline."""
        return self.end - self.reserve - self.clock()


@dataclass(frozen=True)
class Remaining:
    """What a member still has to do."""

    folds: float  # 2.5: half of one is done
    views: int
    seconds: float  # of one fold and one view over all images


def plan_views(left: float, members: Sequence[Remaining]) -> list[int]:
    """How many views each member can afford; 0: it is left out. The first member always keeps one."""
    views = [member.views for member in members]

    def fits() -> bool:
        seconds = sum(m.folds * count * m.seconds for m, count in zip(members, views, strict=True))
        return seconds * RESERVE <= left

    for floor in (1, 0):
        for number in reversed(range(len(members))):
            while views[number] > (1 if number == 0 else floor):
                if fits():
                    return views
                views[number] -= 1
    return views


class Stopwatch:
    """Seconds that a member takes for one fold and one view over all images, measured while it runs."""

    def __init__(self, images: int, guesses: Sequence[float | None]) -> None:
        self.images = images
        self.guesses = list(guesses)  # relative costs of members, from elsewhere; None: not known
        self.measured: dict[int, float] = {}

    def note(self, member: int, images: int, views: float, seconds: float) -> None:
        """`images` took `seconds` with so many views."""
        self.measured[member] = seconds * self.images / (images * views)

    def seconds(self, member: int) -> float:
        """Measured, else from the measured members and the relative costs, else 0: nothing is known yet."""
        if member in self.measured:
            return self.measured[member]
        guess, ratios = self.guesses[member], self._ratios()
        if guess and ratios:
            return guess * sum(ratios) / len(ratios)
        return max(list(self.measured.values()), default=0.0)

    def knows(self, member: int) -> bool:
        """Whether `seconds` stands on a measurement or a relative cost, not on the slowest other member."""
        return member in self.measured or bool(self.guesses[member] and self._ratios())

    def _ratios(self) -> list[float]:
        """Seconds a unit of relative cost, of the measured members that have one."""
        measured = list(self.measured.items())  # another thread may add one
        costs = [(seconds, self.guesses[member]) for member, seconds in measured]
        return [seconds / cost for seconds, cost in costs if cost]


def seconds_since_start() -> float:
    """How long this process has been running, imports included."""
    fields = Path("/proc/self/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    ticks = int(fields[19])  # field 22 of proc(5): starttime, after the boot; the name in brackets may hold spaces
    uptime = float(Path("/proc/uptime").read_text(encoding="ascii").split()[0])
    return max(0.0, uptime - ticks / os.sysconf("SC_CLK_TCK"))


def parse_duration(text: str) -> float:
    """Seconds of "8h40m", "45m", "12s", "1h30m10s" or a plain number of seconds.

    Raises:
        UserError: it is none of these, or 0.
    """
    match = re.fullmatch(r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s?)?", text.strip().lower())
    parts = [float(part) if part else 0.0 for part in match.groups()] if match and text.strip() else [0.0]
    seconds = sum(part * unit for part, unit in zip(parts, (3600, 60, 1), strict=False))
    if seconds <= 0:
        raise UserError(f"{text!r} is no time", key="--deadline", hint="such as 8h40m, 45m or 12s")
    return seconds
