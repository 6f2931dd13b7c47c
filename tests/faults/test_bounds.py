"""The bounds of the other tests notice what they are to notice."""

import time

import pytest

from tests.faults.bounds import bounded, resident


def test_memory_that_is_freed_again_was_held_all_the_same():
    with pytest.raises(AssertionError, match=r"^\d+ MB"), bounded(60, 100):
        bytearray(200_000_000)


def test_a_peak_of_before_is_not_counted():
    bytearray(400_000_000)
    assert resident("VmHWM") > resident("VmRSS") + 300_000_000
    with bounded(60, 100):
        bytearray(1_000_000)


def test_and_does_not_hide_the_next_one():
    bytearray(400_000_000)
    with pytest.raises(AssertionError, match=r"^\d+ MB"), bounded(60, 100):
        bytearray(200_000_000)


def test_waiting_is_time():
    with pytest.raises(AssertionError, match=r"^0\.00 s of work in 0\.\d+ s"), bounded(0.05, 100):
        time.sleep(0.3)


def test_work_is_time():
    with pytest.raises(AssertionError, match=r"^0\.\d+ s of work"), bounded(0.05, 100):
        started = time.process_time()
        while time.process_time() < started + 0.06:
            pass
