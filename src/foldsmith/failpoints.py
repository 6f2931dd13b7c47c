"""Named places at which a test makes the program fail: FOLDSMITH_FAIL=checkpoint.written:2:kill

A rule is name:action or name:n:action, n counted from 1 in this process, `*` for every time; several are joined by
commas. Where the variable is not set, a place costs one dictionary look-up.

    kill   SIGKILL                    raise   a RuntimeError that nothing expects
    term   SIGTERM                    oom     what torch raises when memory runs out
    int    SIGINT                     enospc  what a full disk raises
    sleep  for an hour                full    from here on no file grows over 16 bytes (RLIMIT_FSIZE)
    nan, inf  what the place does with it: `fail` returns the word
"""

import errno
import os
import signal
import time
from collections import Counter
from collections.abc import Callable

VARIABLE = "FOLDSMITH_FAIL"

_came: Counter[str] = Counter()  # how often each place was come to while there was a rule


def fail(name: str) -> str | None:
    """Do what FOLDSMITH_FAIL says of this place; returns the action where it is one that returns."""
    rules = os.environ.get(VARIABLE)
    return None if rules is None else _apply(name, rules)


def forget() -> None:
    """Count from 1 again."""
    _came.clear()


def _apply(name: str, rules: str) -> str | None:
    _came[name] += 1
    for rule in rules.split(","):
        place, *count, action = rule.split(":")
        if place == name and (count or ["1"])[0] in (str(_came[name]), "*"):
            ACTIONS[action](name)
            return action
    return None


def _send(number: signal.Signals) -> Callable[[str], None]:
    return lambda name: os.kill(os.getpid(), number)


def _raise(error: Exception) -> Callable[[str], None]:
    def act(name: str) -> None:
        raise type(error)(*error.args)

    return act


def _fill_disk(name: str) -> None:
    import resource

    resource.setrlimit(resource.RLIMIT_FSIZE, (16, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


ACTIONS: dict[str, Callable[[str], None]] = {
    "kill": _send(signal.SIGKILL),
    "term": _send(signal.SIGTERM),
    "int": _send(signal.SIGINT),
    "sleep": lambda name: time.sleep(3600),
    "raise": _raise(RuntimeError("a failpoint")),
    "oom": _raise(RuntimeError("can't allocate memory: a failpoint")),
    "enospc": _raise(OSError(errno.ENOSPC, "No space left on device")),
    "full": _fill_disk,
    "nan": lambda name: None,
    "inf": lambda name: None,
}
