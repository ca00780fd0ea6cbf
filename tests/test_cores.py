import os
import time

import pytest

from research import cores


def halves(number, other=0.0):
    return number / 2 + other


def slow(number):
    time.sleep(0.02)
    return number, os.getpid()


def test_few_and_quick_calls_stay_in_this_process():
    assert cores.answers(halves, [(1, 0.5), (2, 0.0), (3,)]) == [1.0, 1.0, 1.5]
    assert cores.answers(halves, []) == []
    assert {process for _, process in cores.answers(slow, [(1,), (2,)])} == {os.getpid()}


@pytest.fixture
def worth(monkeypatch):
    monkeypatch.setattr(cores, "WORTH", 0.05)


def test_where_much_is_ahead_other_processes_take_it_and_the_order_stays(worth):
    found = cores.answers(slow, [(number,) for number in range(12)])
    assert [number for number, _ in found] == list(range(12))
    processes = [process for _, process in found]
    assert processes[0] == processes[1] == os.getpid()
    assert os.getpid() not in processes[2:]


def test_what_a_call_raises_is_raised(worth):
    def fails(number):
        time.sleep(0.02)
        if number > 5:
            raise ValueError(f"number is {number}")

    with pytest.raises(ValueError, match=r"number is ([6-9]|1[01])$"):  # whichever of them is asked first
        cores.answers(fails, [(number,) for number in range(12)])
