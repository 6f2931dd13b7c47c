"""The bounds of the other tests notice what they are to notice."""

import mmap
import time

import pytest

from tests.faults.bounds import bounded, resident


def held(size: int) -> None:
    """Hold so many bytes for a moment: of the system, every page touched, and given back to it."""
    with mmap.mmap(-1, size) as memory:
        for place in range(0, size, mmap.PAGESIZE):
            memory[place] = 1


def test_memory_that_is_freed_again_was_held_all_the_same():
    with pytest.raises(AssertionError, match=r"^\d+ MB"), bounded(60, 100):
        held(200_000_000)


def test_a_peak_of_before_is_not_counted():
    held(400_000_000)
    assert resident("VmHWM") > resident("VmRSS") + 300_000_000
    with bounded(60, 100):
        held(1_000_000)


def test_and_does_not_hide_the_next_one():
    held(400_000_000)
    with pytest.raises(AssertionError, match=r"^\d+ MB"), bounded(60, 100):
        held(200_000_000)


def test_waiting_is_time():
    with pytest.raises(AssertionError, match=r"^0\.00 s of work in 0\.\d+ s"), bounded(0.05, 100):
        time.sleep(0.3)


def test_work_is_time():
    with pytest.raises(AssertionError, match=r"^0\.\d+ s of work"), bounded(0.05, 100):
        started = time.process_time()
        while time.process_time() < started + 0.06:
            pass
